//! The API over TCP: who is let in, and what there is for them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use ace_api::http::{AppsView, CreatedToken, TokenView, TokensView};
use ace_control::Outcome;
use common::client::{deploy, get, send, send_tcp};
use common::{Life, Machine, eventually};

/// Makes a token by the socket.
fn token(life: &Life, document: &str) -> CreatedToken {
    let answer = send(&life.socket, "POST", "/v1/tokens", document);
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    serde_json::from_slice(&answer.body).unwrap()
}

/// The status and code of what a token is refused, or just the status of what it's not.
fn ask(life: &Life, token: &CreatedToken, method: &str, path: &str, body: &str) -> (u16, String) {
    let (answer, _) = send_tcp(life.tcp, Some(&token.secret), method, path, body);
    match answer.status.as_u16() {
        status @ 400.. => (status, answer.refusal().1),
        status => (status, String::new()),
    }
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn nobody_is_let_in_without_a_token_that_is_good() {
    let machine = Machine::new();
    let life = machine.live();
    let (answer, headers) = send_tcp(life.tcp, None, "GET", "/v1/apps", "");
    assert_eq!(answer.refusal(), refused(401, "no_token"));
    assert!(headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    // Nor does anybody learn what there is.
    assert_eq!(send_tcp(life.tcp, None, "GET", "/v2", "").0.status, 401);
    assert_eq!(send_tcp(life.tcp, None, "PUT", "/v1/apps", "").0.status, 401);
    let made = token(&life, r#"{"role": "admin", "label": "laptop"}"#);
    assert_eq!(ask(&life, &made, "GET", "/v1/apps", ""), (200, String::new()));
    let wrong = format!("{}0", &made.secret[..made.secret.len() - 1]);
    let wrong = if wrong == made.secret { wrong.replace('0', "1") } else { wrong };
    let (answer, headers) = send_tcp(life.tcp, Some(&wrong), "GET", "/v1/apps", "");
    assert_eq!(answer.refusal(), refused(401, "wrong_token"));
    assert!(headers.contains_key("www-authenticate"));
    let path = format!("/v1/tokens/{}", made.token.id);
    assert_eq!(send(&life.socket, "DELETE", &path, "").status, 200);
    assert_eq!(ask(&life, &made, "GET", "/v1/apps", ""), refused(401, "wrong_token"));
    assert_eq!(send(&life.socket, "DELETE", &path, "").refusal(), refused(404, "no_such_token"));
}

#[test]
fn wrong_tokens_are_slowed_down_and_right_ones_are_not() {
    let machine = Machine::new();
    let life = machine.live();
    let made = token(&life, r#"{"role": "read"}"#);
    let statuses: Vec<u16> = (0..12)
        .map(|n| send_tcp(life.tcp, Some(&format!("ace_{n}")), "GET", "/v1/apps", ""))
        .map(|(answer, _)| answer.status.as_u16())
        .collect();
    assert_eq!(statuses, [401; 12]);
    let (answer, headers) = send_tcp(life.tcp, Some("ace_x"), "GET", "/v1/apps", "");
    assert_eq!(answer.refusal().1, "too_many_attempts");
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 60);
    assert_eq!(ask(&life, &made, "GET", "/v1/apps", ""), (200, String::new()));
}

#[test]
fn a_tenant_has_its_own_apps_and_no_others() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    let acme = token(&life, r#"{"role": "deploy", "tenant": "acme"}"#);
    let ask = |method: &str, path: &str, body: &str| ask(&life, &acme, method, path, body);
    assert_eq!(ask("POST", "/v1/apps/blog/deploys", "run"), (200, String::new()));
    let (answer, _) = send_tcp(life.tcp, Some(&acme.secret), "GET", "/v1/apps", "");
    let AppsView { apps, .. } = answer.json();
    let names: Vec<_> = apps.iter().map(|app| (app.name.as_str(), app.tenant.as_str())).collect();
    assert_eq!(names, [("blog", "acme")]);
    assert_eq!(life.apps().len(), 2);
    let AppsView { apps: of_acme, .. } = get(&life.socket, "/v1/apps?tenant=acme").json();
    assert_eq!(of_acme.len(), 1);

    for path in ["", "/config", "/limits", "/releases", "/logs"] {
        let path = format!("/v1/apps/shop{path}");
        assert_eq!(ask("GET", &path, ""), refused(404, "no_such_app"), "{path}");
    }
    for path in ["rollback", "restart", "stop", "start"] {
        let path = format!("/v1/apps/shop/{path}");
        assert_eq!(ask("POST", &path, ""), refused(404, "no_such_app"), "{path}");
    }
    assert_eq!(ask("DELETE", "/v1/apps/shop", ""), refused(404, "no_such_app"));
    for path in ["/v1/apps/sho", "/v1/pythons"] {
        let (answer, _) = send_tcp(life.tcp, Some(&acme.secret), "GET", path, "");
        assert!(!String::from_utf8_lossy(&answer.body).contains("shop"), "{:?}", answer.body);
    }
    assert_eq!(ask("POST", "/v1/apps/shop/deploys", "run"), refused(409, "name_taken"));
    let change = r#"{"set": {"A": "1"}}"#;
    assert_eq!(ask("PATCH", "/v1/apps/shop/config", change), refused(409, "name_taken"));
    let theirs = "/v1/apps/new/deploys?tenant=default";
    assert_eq!(ask("POST", theirs, "run"), refused(403, "forbidden"));
    assert_eq!(life.apps().len(), 2);
}

#[test]
fn the_operator_need_not_say_whose_an_app_is() {
    let machine = Machine::new();
    let life = machine.live();
    let answer = send(&life.socket, "POST", "/v1/apps/blog/deploys?tenant=acme", "run");
    assert_eq!(answer.status, 200);
    deploy(&life.socket, "blog", "run");
    assert_eq!(life.apps()[0].tenant.as_str(), "acme");
    let change = r#"{"set": {"A": "1"}}"#;
    send(&life.socket, "PATCH", "/v1/apps/new/config?tenant=acme", change);
    assert_eq!(life.apps()[1].tenant.as_str(), "acme");
}

#[test]
fn a_role_bounds_what_a_token_may_do() {
    let machine = Machine::new();
    let life = machine.live();
    deploy(&life.socket, "shop", "run");
    send(&life.socket, "PATCH", "/v1/apps/shop/config", r#"{"set": {"A": "secret"}}"#);
    let [admin, deployer, reader] =
        ["admin", "deploy", "read"].map(|role| token(&life, &format!(r#"{{"role": "{role}"}}"#)));
    let forbidden = || refused(403, "forbidden");
    let all = |method: &str, path: &str, body: &str| {
        [&reader, &deployer, &admin].map(|token| ask(&life, token, method, path, body))
    };
    let ok = || (200, String::new());
    assert_eq!(all("GET", "/v1/apps/shop", ""), [ok(), ok(), ok()]);
    assert_eq!(all("GET", "/v1/apps/shop/config", ""), [ok(), ok(), ok()]);
    assert_eq!(all("GET", "/v1/apps/shop/config?reveal=true", ""), [forbidden(), ok(), ok()]);
    assert_eq!(all("POST", "/v1/apps/shop/restart", ""), [forbidden(), ok(), ok()]);
    assert_eq!(all("GET", "/v1/pythons", ""), [ok(), ok(), ok()]);
    assert_eq!(all("GET", "/v1/doctor", ""), [forbidden(), forbidden(), ok()]);
    assert_eq!(all("GET", "/v1/tokens", ""), [forbidden(), forbidden(), ok()]);
    assert_eq!(all("GET", "/metrics", ""), [forbidden(), forbidden(), ok()]);
    let collector = token(&life, r#"{"role": "metrics"}"#);
    assert_eq!(ask(&life, &collector, "GET", "/metrics", ""), ok());
    for path in ["/v1/apps", "/v1/apps/shop", "/v1/apps/shop/logs", "/v1/pythons", "/v1/events"] {
        assert_eq!(ask(&life, &collector, "GET", path, ""), forbidden(), "{path}");
    }
    for token in [&reader, &deployer] {
        assert_eq!(ask(&life, token, "POST", "/v1/tokens", r#"{"role": "admin"}"#), forbidden());
        assert_eq!(ask(&life, token, "POST", "/v1/down", ""), forbidden());
    }
    assert_eq!(ask(&life, &admin, "POST", "/v1/down", ""), ok());
    assert_eq!(life.wait(), Outcome::Down);
}

#[test]
fn tokens_outlive_their_engine_and_their_use_is_noted() {
    let machine = Machine::new();
    let life = machine.live();
    let made = token(&life, r#"{"role": "read", "label": "laptop", "expires_in_seconds": 3600}"#);
    life.kill();
    let life = machine.live();
    assert_eq!(ask(&life, &made, "GET", "/v1/apps", ""), (200, String::new()));
    let listed = || get(&life.socket, "/v1/tokens").json::<TokensView>().tokens;
    eventually("its use is noted", || listed()[0].last_used_at.is_some());
    let TokenView { label, expires_at, .. } = listed().remove(0);
    assert_eq!(label.unwrap().as_str(), "laptop");
    assert!(expires_at.is_some());
    let answer = get(&life.socket, "/v1/tokens");
    let secret = made.secret.rsplit('_').next().unwrap();
    assert!(!String::from_utf8_lossy(&answer.body).contains(secret));
}
