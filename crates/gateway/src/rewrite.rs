//! Where a request goes by the rules of its app. Pure.
//!
//! Rules are matched against the path as files know it, decoded and flattened. The time they take
//! is bounded: by the size of an expression, the length of the path, and [`MATCHED_BYTES_MAX`].

use ace_types::HostName;
use ace_types::rewrite::{Flag, Piece, Replacement, RewriteRule, Template, TryRule, Variable};
use ace_upstream::{encode_path, encode_query_value, encode_url};
use http::header::HOST;
use http::{StatusCode, Uri};
use regex::bytes::Captures;

use crate::failure::Failure;
use crate::framing::HEAD_BYTES_MAX;
use crate::statics::Asked;
use crate::target::{flatten, origin_form};

/// What rules may look at besides the path.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub asked: Asked<'a>,
    pub host: &'a HostName,
    pub scheme: &'static str,
}

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As [`crate::target::normalise`] makes it.
    pub path: Vec<u8>,
    pub query: Option<String>,
    /// It is not what the client asked for: rules have led here.
    pub is_rewritten: bool,
}

/// Where rules lead.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Place(Place),
    /// The client is to go there itself.
    Redirect {
        status: StatusCode,
        location: String,
    },
}

/// How often `last` may begin the rules anew for one request, as in nginx.
const ROUNDS_MAX: usize = 10;

/// The longest path that rules are tried on, and that may come of them.
const PATH_BYTES_MAX: usize = 2048;

/// How much one request may have matched, each rule and round counted. The worst of expressions take a
/// few microseconds a byte.
const MATCHED_BYTES_MAX: usize = 64 * 1024;

impl Place {
    /// What the client asked for; its path is `path`, normalised.
    pub fn asked(path: Vec<u8>, uri: &Uri) -> Self {
        Self { path, query: uri.query().map(str::to_owned), is_rewritten: false }
    }

    /// As the target of a request.
    pub fn target(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", encode_path(&self.path))
    }
}

/// Follows `rules` from `place`.
///
/// Errors: [`Failure::TargetTooLong`]; [`Failure::RewriteCycle`], [`Failure::RewriteTooLong`];
/// [`Failure::BadRequest`] where a rule leads above the root.
pub fn follow(
    rules: &[RewriteRule],
    facts: Facts<'_>,
    mut place: Place,
) -> Result<Outcome, Failure> {
    if rules.is_empty() || !facts.asked.uri.path().starts_with('/') {
        return Ok(Outcome::Place(place));
    }
    if place.path.len() > PATH_BYTES_MAX {
        return Err(Failure::TargetTooLong);
    }
    let mut budget = MATCHED_BYTES_MAX;
    for _ in 0..=ROUNDS_MAX {
        match round(rules, facts, place, &mut budget)? {
            Round::Over(outcome) => return Ok(outcome),
            Round::Again(changed) => place = changed,
        }
    }
    Err(Failure::RewriteCycle { rounds: ROUNDS_MAX })
}

/// The rule that `path`, normalised, falls under: the longest.
pub fn try_rule<'a>(rules: &'a [TryRule], path: &[u8]) -> Option<&'a TryRule> {
    let covers = |rule: &&TryRule| path.starts_with(rule.path.as_bytes());
    rules.iter().filter(covers).max_by_key(|rule| rule.path.len())
}

/// Where `rule` leads from `place`, which has no file. Errors: as [`follow`].
pub fn fall_back(rule: &TryRule, facts: Facts<'_>, place: &Place) -> Result<Place, Failure> {
    Expansion { facts, place, groups: None }.place(&rule.script)
}

/// What came of trying all rules.
enum Round {
    Over(Outcome),
    Again(Place),
}

fn round(
    rules: &[RewriteRule],
    facts: Facts<'_>,
    mut place: Place,
    budget: &mut usize,
) -> Result<Round, Failure> {
    for rule in rules {
        *budget = budget.checked_sub(place.path.len()).ok_or(Failure::RewriteTooLong)?;
        let Some(groups) = rule.regex.captures(&place.path) else { continue };
        let expansion = Expansion { facts, place: &place, groups: Some(&groups) };
        let status = match rule.flag {
            Flag::Redirect => StatusCode::FOUND,
            Flag::Permanent => StatusCode::MOVED_PERMANENTLY,
            Flag::None | Flag::Last | Flag::Break => {
                let changed = expansion.place(&rule.replacement)?;
                match rule.flag {
                    Flag::Last => return Ok(Round::Again(changed)),
                    Flag::Break => return Ok(Round::Over(Outcome::Place(changed))),
                    _ => place = changed,
                }
                continue;
            }
        };
        let location = expansion.location(&rule.replacement)?;
        return Ok(Round::Over(Outcome::Redirect { status, location }));
    }
    Ok(Round::Over(Outcome::Place(place)))
}

/// What fills the gaps of a replacement.
struct Expansion<'a> {
    facts: Facts<'a>,
    place: &'a Place,
    groups: Option<&'a Captures<'a>>,
}

/// What a replacement becomes a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A decoded path.
    Path,
    /// A path in a URL.
    EncodedPath,
    Query,
}

impl Expansion<'_> {
    fn place(&self, replacement: &Replacement) -> Result<Place, Failure> {
        let path = flatten(&self.expand(&replacement.path, Part::Path))?;
        let query = self.query(replacement);
        if path.len() > PATH_BYTES_MAX || query.as_ref().map_or(0, String::len) > HEAD_BYTES_MAX {
            return Err(Failure::RewriteTooLong);
        }
        Ok(Place { path, query, is_rewritten: true })
    }

    fn location(&self, replacement: &Replacement) -> Result<String, Failure> {
        let path = self.expand(&replacement.path, Part::EncodedPath);
        let mut location = encode_url(&path);
        if !replacement.is_absolute {
            // Two slashes at the beginning would be another host.
            location = format!("/{}", location.trim_start_matches('/'));
        }
        if let Some(query) = self.query(replacement) {
            location.push(if location.contains('?') { '&' } else { '?' });
            location.push_str(&query);
        }
        match location.len() > HEAD_BYTES_MAX {
            true => Err(Failure::RewriteTooLong),
            false => Ok(location),
        }
    }

    /// The replacement's own query, and the request's after it.
    fn query(&self, replacement: &Replacement) -> Option<String> {
        let own = replacement.query.as_ref().map(|own| self.expand(own, Part::Query));
        let own = own.map(|own| encode_url(&own));
        let kept = self.place.query.clone().filter(|_| replacement.keeps_query);
        match (own, kept) {
            (Some(own), Some(kept)) if !kept.is_empty() => Some(format!("{own}&{kept}")),
            (own, kept) => own.or(kept).filter(|query| !query.is_empty()),
        }
    }

    fn expand(&self, template: &Template, part: Part) -> Vec<u8> {
        let mut text = Vec::new();
        for piece in template {
            match piece {
                Piece::Text(literal) => text.extend_from_slice(literal.as_bytes()),
                Piece::Group(number) => {
                    let group = self.groups.and_then(|groups| groups.get(*number));
                    let group = group.map_or(&b""[..], |group| group.as_bytes());
                    part.append_decoded(&mut text, group);
                }
                Piece::Variable(variable) => self.append(&mut text, variable, part),
            }
        }
        text
    }

    fn append(&self, text: &mut Vec<u8>, variable: &Variable, part: Part) {
        let query = self.place.query.as_deref();
        let plain = match variable {
            Variable::Uri => return part.append_decoded(text, &self.place.path),
            Variable::Args => query.unwrap_or_default(),
            Variable::IsArgs if query.is_some_and(|query| !query.is_empty()) => "?",
            Variable::IsArgs => "",
            Variable::Arg(name) => {
                query.and_then(|query| argument(query, name)).unwrap_or_default()
            }
            Variable::RequestUri => {
                return text.extend_from_slice(origin_form(self.facts.asked.uri).as_bytes());
            }
            Variable::RequestMethod => self.facts.asked.method.as_str(),
            Variable::Scheme => self.facts.scheme,
            Variable::Host => self.facts.host.as_str(),
            Variable::HttpHost => self.facts.asked.headers.get(HOST).map_or("", |host| {
                host.to_str().unwrap_or_default() // It has been found to be a host.
            }),
        };
        text.extend_from_slice(plain.as_bytes());
    }
}

impl Part {
    /// Appends `bytes`, which are decoded, in the way that suits this part.
    fn append_decoded(self, text: &mut Vec<u8>, bytes: &[u8]) {
        match self {
            Self::Path => text.extend_from_slice(bytes),
            Self::EncodedPath => text.extend_from_slice(encode_path(bytes).as_bytes()),
            Self::Query => text.extend_from_slice(encode_query_value(bytes).as_bytes()),
        }
    }
}

/// The first value of `name` in a query, as it stands there.
fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use http::request::Parts;
    use proptest::prelude::*;

    use super::*;
    use crate::target::normalise;

    fn facts<'a>(request: &'a Parts, host: &'a HostName) -> Facts<'a> {
        let Parts { method, uri, headers, .. } = request;
        Facts { asked: Asked { method, uri, headers }, host, scheme: "http" }
    }

    fn request(target: &str) -> Parts {
        let request = http::Request::builder().uri(target).header(HOST, "shop.localhost:8080");
        request.body(()).unwrap().into_parts().0
    }

    /// Where `rules`, each a `url` and a `script`, lead from `target`: a target, or `STATUS LOCATION`.
    fn led(rules: &[(&str, &str)], target: &str) -> Result<String, Failure> {
        let rules: Vec<_> =
            rules.iter().map(|(url, script)| RewriteRule::new(url, script).unwrap()).collect();
        let (request, host) = (request(target), "shop.localhost".parse().unwrap());
        let place = Place::asked(normalise(request.uri.path())?, &request.uri);
        Ok(match follow(&rules, facts(&request, &host), place)? {
            Outcome::Place(place) => place.target(),
            Outcome::Redirect { status, location } => format!("{} {location}", status.as_u16()),
        })
    }

    fn one(url: &str, script: &str, target: &str) -> String {
        led(&[(url, script)], target).unwrap()
    }

    #[test]
    fn a_redirect_keeps_the_query_unless_told_not_to() {
        for (script, location) in [
            ("/new/$1 permanent", "301 /new/a%20b?c=d"),
            ("/new/$1 redirect", "302 /new/a%20b?c=d"),
            ("/new/$1? permanent", "301 /new/a%20b"),
            ("/new?e=$1 redirect", "302 /new?e=a%20b&c=d"),
            ("http://example.com/$1", "302 http://example.com/a%20b?c=d"),
            ("https://$host$request_uri? permanent", "301 https://shop.localhost/old/a%20b?c=d"),
            ("$scheme://$http_host$uri?", "302 http://shop.localhost:8080/old/a%20b"),
            ("/$arg_c$is_args$args? redirect", "302 /d?c=d"),
        ] {
            assert_eq!(one("^/old/(.*)$", script, "/old/a%20b?c=d"), location, "{script}");
        }
    }

    #[test]
    fn a_redirect_leads_to_no_other_host_by_what_a_client_says() {
        for target in ["//example.com", "/%2fexample.com", "/%5cexample.com", "/a%0d%0aB:c"] {
            let location = one("(?s)^(.*)$", "$1 redirect", target);
            assert!(location.starts_with("302 /"), "{location}");
            assert!(!location.contains(['\\', '\r', '\n']) && !location.contains("//"));
        }
        assert_eq!(one("^/(.*)$", "//$1 redirect", "/example.com"), "302 /example.com");
    }

    #[test]
    fn flags_say_what_comes_next() {
        let chain = |flag: &str| {
            let to_b = format!("/b {flag}");
            led(&[("^/c$", "/d"), ("^/a$", &to_b), ("^/b$", "/c")], "/a").unwrap()
        };
        assert_eq!(chain(""), "/c");
        assert_eq!(chain("break"), "/b");
        // From the beginning: b becomes c, and no rule but the first knows that.
        assert_eq!(chain("last"), "/c");
        assert_eq!(led(&[("^/b$", "/c"), ("^/a$", "/b last")], "/a").unwrap(), "/c");
    }

    #[test]
    fn a_circle_ends_after_ten_rounds() {
        let circle = [("^/a$", "/b last"), ("^/b$", "/a last")];
        assert!(matches!(led(&circle, "/a"), Err(Failure::RewriteCycle { rounds: 10 })));
        let count_down = [("^/x(x*)$", "/$1 last")];
        assert_eq!(led(&count_down, "/xxxxxxxxxx").unwrap(), "/");
        assert!(led(&count_down, "/xxxxxxxxxxx").is_err());
    }

    #[test]
    fn what_comes_of_rules_is_bounded_and_flat() {
        let doubled = [("^(.*)$", "$1$1 last")];
        assert!(matches!(
            led(&doubled, &format!("/{}", "a".repeat(1000))),
            Err(Failure::RewriteTooLong)
        ));
        let often = vec![("^b", "/"); 32].into_iter().chain([("^/x(x*)$", "/$1 last")]);
        let often: Vec<_> = often.collect();
        assert!(led(&often, &format!("/{}", "x".repeat(2000))).is_err());
        assert_eq!(led(&often, "/xx").unwrap(), "/");
        let long = format!("/{}", "a".repeat(5000));
        assert!(matches!(led(&[("^/b", "/c")], &long), Err(Failure::TargetTooLong)));
        assert_eq!(one("^/a(.*)$", "/s/.$1", "/a./x"), "/x");
        assert!(led(&[("^/a(.*)$", "/.$1")], "/a./x").is_err());
    }

    #[test]
    fn a_path_is_matched_as_files_know_it() {
        assert_eq!(one("^/a b/c$", "/d", "/a%20b//./c"), "/d");
        assert_eq!(one("^/caf\u{e9}$", "/d", "/caf%C3%A9"), "/d");
        assert_eq!(
            one("^/(.+)\\.html$", "/show?page=$1", "/a%26b.html?x=y"),
            "/show?page=a%26b&x=y"
        );
        let request = request("*");
        let (asked, rule) =
            (Place::asked(b"/*".to_vec(), &request.uri), RewriteRule::new("^", "/"));
        let host = "a".parse().unwrap();
        let outcome = follow(&[rule.unwrap()], facts(&request, &host), asked.clone());
        assert_eq!(outcome.unwrap(), Outcome::Place(asked));
    }

    #[test]
    fn the_longest_folder_is_tried() {
        let rules = [
            TryRule::new("/", "/index.html").unwrap(),
            TryRule::new("/docs/", "/show$is_args$args?").unwrap(),
        ];
        let to = |target: &str| {
            let (request, host) = (request(target), "a".parse().unwrap());
            let place = Place::asked(normalise(request.uri.path()).unwrap(), &request.uri);
            let rule = try_rule(&rules, &place.path).unwrap();
            fall_back(rule, facts(&request, &host), &place).unwrap().target()
        };
        assert_eq!(to("/a?b=c"), "/index.html?b=c");
        assert_eq!(to("/docs/a?b=c"), "/show?b=c");
    }

    proptest! {
        #[test]
        fn a_location_is_a_header_and_a_place_is_a_target(
            path in "/[a-z/.\\\\ \r\n%?#é]{0,30}",
            query in "[a-z&=%?]{0,10}",
        ) {
            let place = Place { path: path.into_bytes(), query: Some(query), is_rewritten: false };
            let (request, host) = (request("/"), "a".parse().unwrap());
            let asked = facts(&request, &host);
            for script in ["$1 redirect", "/a$uri?b=$1", "/$1?$args"] {
                let rule = RewriteRule::new("(?s)^(.*)$", script).unwrap();
                match follow(&[rule], asked, place.clone()) {
                    Ok(Outcome::Redirect { location, .. }) => {
                        prop_assert!(location.starts_with('/') && !location.starts_with("//"));
                        prop_assert!(location.bytes().all(|byte| byte.is_ascii_graphic()));
                    }
                    Ok(Outcome::Place(place)) => {
                        prop_assert!(place.target().parse::<Uri>().is_ok(), "{place:?}");
                    }
                    Err(_) => {}
                }
            }
        }
    }
}
