//! The API's description holds: whatever is asked is answered as it says.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use ace_api::http::CreatedToken;
use common::client::{Answer, deploy, get, send, send_as, send_tcp};
use common::{Life, Machine};
use hyper::HeaderMap;
use serde_json::{Map, Value, json};

/// Names of apps: one that there is, one that there is not, some that can't be.
const APPS: [&str; 6] = ["shop", "none", "A_b", "%00", "a%2Fb", "%C3%A4"];
/// What stands for other parameters of paths.
const OTHERS: [&str; 6] = ["1", "99999", "-1", "99999999999999999999", "aaaaaaaa", "%FF"];
const QUERIES: [&str; 9] = [
    "",
    "?tail=0&reveal=true&follow=false",
    "?tail=-1",
    "?tail=99999999999999999999999",
    "?reveal=maybe&follow=%00",
    "?tenant=..",
    "?tenant=other",
    "?since=yesterday&release=x",
    "?instance=none&tail=1&tail=2",
];
const BODIES: [&str; 9] = [
    "",
    "{}",
    "[",
    "null",
    "\"x\"",
    "{\"unknown\": 1}",
    "{\"instances\": 70000}",
    "{\"role\": \"king\"}",
    "{\"set\": {\"\\u0000\": \"\"}, \"add\": [\"..\"], \"program\": \"x\", \"release\": 0}",
];
/// What is never asked for here, since nothing can be asked after it.
const LAST: &str = "/v1/down";

fn document(life: &Life) -> Value {
    get(&life.socket, "/v1/openapi.json").json()
}

/// Every operation: method, path and what the document says.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().clone();
        let path = path.clone();
        methods.into_iter().map(move |(method, it)| (method.to_uppercase(), path.clone(), it))
    };
    paths.iter().flat_map(of_path).collect()
}

/// `path` with something for each of its parameters.
fn filled(path: &str, app: &str, other: &str) -> String {
    path.replace("{app}", app).replace("{release}", other).replace("{token}", other)
}

/// Checks an answer against what the document says of its operation.
fn check(document: &Value, operation: &Value, answer: &Answer, asked: &str) {
    let status = answer.status.as_u16();
    let response = &operation["responses"][status.to_string()];
    let body = String::from_utf8_lossy(&answer.body);
    assert!(!response.is_null(), "{asked}: {status} is not documented: {body}");
    assert!(status < 500, "{asked}: {status} {body}");
    let response = resolve(document, response);
    if let Some(content) = response["content"].get("application/json") {
        let value = serde_json::from_slice(&answer.body);
        let value: Value = value.unwrap_or_else(|_| panic!("{asked}: {status} {body}"));
        let fault = fault(document, &content["schema"], &value);
        assert_eq!(fault, None, "{asked}: {status} {body}");
    }
    if let Some(content) = response["content"].get("application/x-ndjson") {
        for line in body.lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            let fault = fault(document, &content["schema"]["x-line"], &value);
            assert_eq!(fault, None, "{asked}: {line}");
        }
    }
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(link) => document.pointer(link.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// Where `value` is not what `schema` says, if it is so anywhere. Knows the words that our document uses.
fn fault(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    fault_in(document, schema, value, false)
}

/// The same; of a schema that is part of another, others may have fields besides its own.
fn fault_in(document: &Value, schema: &Value, value: &Value, is_part: bool) -> Option<String> {
    let schema = schema.as_object()?;
    if let Some(link) = schema.get("$ref").and_then(Value::as_str) {
        let target = document.pointer(link.strip_prefix('#').unwrap()).unwrap();
        if let Some(fault) = fault(document, target, value) {
            return Some(fault);
        }
    }
    let all = schema.get("allOf").and_then(Value::as_array).into_iter().flatten();
    if let Some(fault) = all.filter_map(|one| fault_in(document, one, value, true)).next() {
        return Some(fault);
    }
    for word in ["oneOf", "anyOf"] {
        let Some(choices) = schema.get(word).and_then(Value::as_array) else { continue };
        let is_part = is_part || schema.contains_key("properties");
        if choices.iter().all(|choice| fault_in(document, choice, value, is_part).is_some()) {
            return Some(format!("{value} is none of {word} {choices:?}"));
        }
    }
    let is_wrong = |word: &str, fits: fn(&Value, &Value) -> bool| {
        schema.get(word).is_some_and(|wanted| !fits(wanted, value))
    };
    if is_wrong("type", has_type)
        || is_wrong("const", |wanted, value| wanted == value)
        || is_wrong("enum", |wanted, value| wanted.as_array().unwrap().contains(value))
        || is_wrong("minimum", |least, value| value.as_f64() >= least.as_f64())
        || is_wrong("maximum", |most, value| value.as_f64() <= most.as_f64())
    {
        return Some(format!("{value} is not {schema:?}"));
    }
    match value {
        Value::Array(all) => {
            let first = schema.get("prefixItems").and_then(Value::as_array);
            let first = first.map_or(&[][..], Vec::as_slice);
            let others = schema.get("items")?;
            let schemas = first.iter().chain(std::iter::repeat(others));
            all.iter().zip(schemas).find_map(|(item, schema)| fault(document, schema, item))
        }
        Value::Object(fields) => fault_of_fields(document, schema, fields, is_part),
        _ => None,
    }
}

fn fault_of_fields(
    document: &Value,
    schema: &Map<String, Value>,
    fields: &Map<String, Value>,
    is_part: bool,
) -> Option<String> {
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let mut required = required.filter_map(Value::as_str);
    if let Some(missing) = required.find(|name| !fields.contains_key(*name)) {
        return Some(format!("{missing} is missing in {fields:?}"));
    }
    let others = schema.get("additionalProperties");
    let Some(known) = schema.get("properties").and_then(Value::as_object) else {
        return fields.values().find_map(|value| fault(document, others?, value));
    };
    // What part of the fields a choice or a link describes is seen to there.
    let is_whole = !is_part
        && ["oneOf", "anyOf", "allOf", "$ref"].iter().all(|word| !schema.contains_key(*word));
    fields.iter().find_map(|(name, value)| match (known.get(name), others) {
        (Some(schema), _) | (None, Some(schema)) => fault(document, schema, value),
        (None, None) if is_whole => Some(format!("{name} is not documented")),
        (None, None) => None,
    })
}

fn has_type(wanted: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    match wanted {
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        name => is(name.as_str().unwrap()),
    }
}

#[test]
fn whatever_is_asked_is_answered_as_the_document_says() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let document = document(&life);
    for (method, path, operation) in operations(&document) {
        if path == LAST {
            continue;
        }
        let takes = operation.get("requestBody").is_some();
        // An app that has gone is made again, so that there is one to ask of.
        let gone = method == "DELETE";
        for (n, query) in QUERIES.iter().enumerate() {
            let (app, other) = (APPS[n % APPS.len()], OTHERS[n % OTHERS.len()]);
            let path = filled(&path, if n == 1 { "shop" } else { app }, other);
            let body = if takes { BODIES[n] } else { "" };
            let asked = format!("{method} {path}{query} {body}");
            let answer = send(&life.socket, &method, &format!("{path}{query}"), body);
            check(&document, &operation, &answer, &asked);
        }
        for body in BODIES.into_iter().filter(|_| takes) {
            let path = filled(&path, "shop", "1");
            let answer = send(&life.socket, &method, &path, body);
            check(&document, &operation, &answer, &format!("{method} {path} {body}"));
        }
        if gone {
            deploy(&life.socket, "shop", "run");
        }
    }
}

#[test]
fn a_tenants_token_finds_nothing_of_anothers_on_any_path() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let made = send(&life.socket, "POST", "/v1/tokens", r#"{"role": "deploy", "tenant": "other"}"#);
    let made: CreatedToken = serde_json::from_slice(&made.body).unwrap();
    let document = document(&life);
    for (method, path, operation) in operations(&document) {
        let (asked, is_of_an_app) = (format!("{method} {path}"), path.contains("{app}"));
        let path = filled(&path, "shop", "1");
        let (nobody, _) = send_tcp(life.tcp, None, &method, &path, "");
        let is_open = operation.get("security").is_some();
        assert_eq!(nobody.status == 401, !is_open, "{asked}");
        let (answer, _) = send_tcp(life.tcp, Some(&made.secret), &method, &path, "");
        check(&document, &operation, &answer, &asked);
        if is_of_an_app {
            // A name that is taken, a command that comes without its frames.
            assert!([404, 409, 426, 400].contains(&answer.status.as_u16()), "{asked}");
        }
        assert!(!String::from_utf8_lossy(&answer.body).contains("shop.localhost"), "{asked}");
    }
    assert_eq!(life.apps().len(), 1);
}

#[test]
fn no_path_has_a_method_that_is_not_documented() {
    let machine = Machine::new();
    let life = machine.live();
    let document = document(&life);
    let admin = send(&life.socket, "POST", "/v1/tokens", r#"{"role": "admin"}"#);
    let admin: CreatedToken = serde_json::from_slice(&admin.body).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        let known: Vec<String> =
            item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"] {
            if known.iter().any(|known| known == method) {
                continue;
            }
            let path = filled(path, "shop", "1");
            let (answer, headers) = send_tcp(life.tcp, Some(&admin.secret), method, &path, "");
            assert_eq!(answer.refusal(), (405, "no_such_method".to_owned()), "{method} {path}");
            let allow = headers["allow"].to_str().unwrap();
            let mut allowed: Vec<&str> = allow.split(',').filter(|it| *it != "HEAD").collect();
            allowed.sort_unstable();
            assert_eq!(allowed, known, "{path}");
        }
    }
}

/// A value that `schema` takes; the smallest that there is.
fn sample(document: &Value, schema: &Value) -> Value {
    let schema = resolve(document, schema);
    if let Some(example) = schema["examples"].get(0) {
        return example.clone();
    }
    for word in ["oneOf", "anyOf"] {
        if let Some(choice) = schema[word].get(0) {
            return sample(document, choice);
        }
    }
    if let Some(only) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return only.clone();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind.unwrap_or("object") {
        "integer" => schema["minimum"].as_i64().unwrap_or(1).into(),
        "boolean" => false.into(),
        "array" => {
            let first = schema["prefixItems"].as_array().into_iter().flatten();
            first.map(|item| sample(document, item)).collect()
        }
        "string" => "a".into(),
        _ => {
            let names = schema["required"].as_array().into_iter().flatten();
            let names = names.map(|name| name.as_str().unwrap().to_owned());
            let filled = |name: String| {
                let value = sample(document, &schema["properties"][&name]);
                (name, value)
            };
            names.map(filled).collect::<Map<_, _>>().into()
        }
    }
}

/// Values that `schema` does not take.
fn wrong(document: &Value, schema: &Value) -> Vec<Value> {
    let schema = resolve(document, schema);
    let mut all = vec![json!({ "no": "such" }), json!(1.5), json!([[]])];
    let bounds = [("maximum", 1), ("minimum", -1)];
    all.extend(bounds.iter().filter_map(|(word, beyond)| {
        schema[word].as_i64().and_then(|bound| bound.checked_add(*beyond)).map(Value::from)
    }));
    all.retain(|value| fault(document, schema, value).is_some());
    all
}

/// Bodies of `operation` that are not what it takes, and what is wrong with each.
fn wrong_bodies(document: &Value, operation: &Value) -> Vec<(String, String)> {
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    if schema.is_null() {
        return Vec::new();
    }
    let good = sample(document, schema);
    let schema = resolve(document, schema);
    let mut all =
        vec![("no JSON".to_owned(), "{".to_owned()), ("a list".to_owned(), "[]".to_owned())];
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body.to_string()
    };
    all.push(("an unknown field".to_owned(), with("no_such_field", json!(1))));
    for name in schema["required"].as_array().into_iter().flatten() {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(name.as_str().unwrap());
        all.push((format!("{name} is missing"), body.to_string()));
    }
    for (name, property) in schema["properties"].as_object().unwrap() {
        let values = wrong(document, property).into_iter();
        all.extend(values.map(|value| (format!("{name} is {value}"), with(name, value))));
    }
    all
}

/// Texts that are no value of a parameter.
fn wrong_texts(schema: &Value) -> Vec<String> {
    let mut all: Vec<String> = match schema["type"].as_str() {
        Some("integer") => ["x", "1.5", "-1", "99999999999999999999999"].map(str::to_owned).into(),
        Some("boolean") => ["maybe", "1", ""].map(str::to_owned).into(),
        _ => ["%00", "..", "A%20b!"].map(str::to_owned).into(),
    };
    let bounds = [("maximum", 1), ("minimum", -1)];
    all.extend(bounds.iter().filter_map(|(word, beyond)| {
        schema[word].as_i64().map(|bound| (bound + beyond).to_string())
    }));
    all
}

/// Checks an answer to somebody who has asked wrongly.
fn check_refusal(
    document: &Value,
    operation: &Value,
    (answer, headers): &(Answer, HeaderMap),
    wanted: (u16, &str),
    asked: &str,
) {
    check(document, operation, answer, asked);
    assert_eq!(answer.status, wanted.0, "{asked}: {:?}", answer.body);
    let (status, code) = answer.refusal();
    assert_eq!((status, code.as_str()), wanted, "{asked}: {:?}", answer.body);
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    let id = headers["x-request-id"].to_str().unwrap();
    assert_eq!(error["request_id"], id, "{asked}");
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
}

#[test]
fn whatever_is_asked_wrongly_is_refused_as_the_document_says() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let admin = send(&life.socket, "POST", "/v1/tokens", r#"{"role": "admin"}"#);
    let admin: CreatedToken = serde_json::from_slice(&admin.body).unwrap();
    let document = document(&life);
    let mut tried = 0;
    for (method, path, operation) in operations(&document) {
        let path = filled(&path, "shop", "1");
        let ask = |query: &str, media_type: Option<&str>, body: &str| {
            let path = format!("{path}{query}");
            send_as(life.tcp, Some(&admin.secret), &method, &path, media_type, body)
        };
        let mut refuse = |query: &str, media_type: Option<&str>, body: &str, wanted| {
            let asked = format!("{method} {path}{query} {body}");
            let answer = ask(query, media_type, body);
            check_refusal(&document, &operation, &answer, wanted, &asked);
            tried += 1;
        };
        refuse("?no_such=1", None, "", (400, "unknown_parameter"));
        if operation.get("requestBody").is_some() {
            refuse("", Some("text/plain"), "{}", (415, "unsupported_media_type"));
        }
        for (_, body) in wrong_bodies(&document, &operation) {
            refuse("", Some("application/json"), &body, (400, "bad_request"));
        }
        for parameter in operation["parameters"].as_array().unwrap() {
            let name = parameter["name"].as_str().unwrap();
            if parameter["in"] != "query" {
                continue;
            }
            for text in wrong_texts(resolve(&document, &parameter["schema"])) {
                let code = if name == "tenant" && takes_a_name(&method) {
                    "bad_name"
                } else {
                    "bad_request"
                };
                refuse(&format!("?{name}={text}"), None, "", (400, code));
            }
        }
        if operation.get("security").is_none() {
            let answer = send_tcp(life.tcp, None, &method, &path, "");
            check_refusal(&document, &operation, &answer, (401, "no_token"), &path);
            assert!(answer.1.contains_key("www-authenticate"), "{path}");
        }
    }
    assert!(tried > 150, "{tried}");
    assert_eq!(life.apps().len(), 1, "nothing has come of any of it");
}

/// Whether `tenant` names whose a new app is, which has an error of its own.
fn takes_a_name(method: &str) -> bool {
    method != "GET"
}

#[test]
fn what_the_document_calls_valid_is_not_called_wrong() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let document = document(&life);
    for (method, path, operation) in operations(&document) {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() || path == LAST {
            continue;
        }
        let body = sample(&document, schema).to_string();
        let path = filled(&path, "shop", "1");
        let answer = send(&life.socket, &method, &path, &body);
        let asked = format!("{method} {path} {body}");
        check(&document, &operation, &answer, &asked);
        assert_ne!(answer.status, 400, "{asked}: {:?}", answer.body);
    }
}

#[test]
fn a_request_has_one_name_in_its_answer_and_in_no_other() {
    let machine = Machine::new();
    let life = machine.live();
    let name = || {
        let (_, headers) = send_tcp(life.tcp, None, "GET", "/v1/openapi.json", "");
        headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_ne!(name(), name());
}
