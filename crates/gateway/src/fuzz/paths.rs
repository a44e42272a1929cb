//! Where a target leads: to a file of a release, or by an app's rules elsewhere.

use ace_types::StaticRule;
use ace_types::rewrite::{RewriteRule, TryRule};
use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, Method, Uri};

use crate::rewrite::{Facts, Outcome, Place, fall_back, follow};
use crate::statics::{Asked, file_path, redirect_into};
use crate::target::{flatten, normalise};

/// A path leads to a name below its rule's folder that may be served, or to nothing.
pub fn path(bytes: &[u8]) {
    let Some(path) = std::str::from_utf8(bytes).ok().and_then(|text| normalise(text).ok()) else {
        return;
    };
    check_path(&path);
    for (at, files) in [("/", ""), ("/static/", "public/")] {
        let rule = StaticRule { path: at.to_owned(), files: files.to_owned(), expire: None };
        let below = path.starts_with(at.as_bytes());
        let Some(file) = file_path(&rule, &path).filter(|_| below) else { continue };
        assert!(file.starts_with(files.as_bytes()) && !file.starts_with(b"/"));
        assert!(!file.split(|byte| *byte == b'/').any(|name| name.is_empty() || name[0] == b'.'));
        assert!(!file.ends_with(b".py") && !file.contains(&0));
    }
    if !path.ends_with(b"/") {
        check_location(&redirect_into(&path, None).headers()[LOCATION]);
    }
}

/// Rules, `url` and `script` of each on a line of its own, then a script to fall back to, then a target:
/// they end, at a path like any other, or with a redirect to no other host than they name.
pub fn rewriting(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines: Vec<&str> = text.lines().take(8).collect();
    let [rules @ .., fallback, target] = lines.as_slice() else { return };
    let Some(uri) = target.parse::<Uri>().ok().filter(|uri| uri.path().starts_with('/')) else {
        return;
    };
    let rules = rules.chunks_exact(2).map(|rule| RewriteRule::new(rule[0], rule[1]));
    let Ok(rules) = rules.collect::<Result<Vec<_>, _>>() else { return };
    let Ok(path) = normalise(uri.path()) else { return };
    let (host, headers) = ("shop.localhost".parse().expect("it is a name"), HeaderMap::new());
    let asked = Asked { method: &Method::GET, uri: &uri, headers: &headers };
    let facts = Facts { asked, host: &host, scheme: "http" };
    match follow(&rules, facts, Place::asked(path, &uri)) {
        Ok(Outcome::Place(place)) => {
            check_place(&place);
            let rule = TryRule::new("/", fallback);
            if let Ok(place) = rule.map(|rule| fall_back(&rule, facts, &place)).unwrap_or(Ok(place))
            {
                check_place(&place);
            }
        }
        Ok(Outcome::Redirect { location, .. }) => {
            let value = HeaderValue::from_str(&location).expect("it can stand in a header");
            if rules.iter().all(|rule| !rule.replacement.is_absolute) {
                check_location(&value);
            }
        }
        Err(_) => {}
    }
}

fn check_place(place: &Place) {
    check_path(&place.path);
    let target = place.target();
    assert!(target.bytes().all(|byte| byte >= 0x80 || byte.is_ascii_graphic()), "{target:?}");
}

/// It is normalised.
fn check_path(path: &[u8]) {
    assert!(path.starts_with(b"/"));
    assert_eq!(flatten(path).ok().as_deref(), Some(path));
}

/// It is a path on this host.
fn check_location(location: &HeaderValue) {
    let bytes = location.as_bytes();
    assert!(bytes.starts_with(b"/") && !bytes.starts_with(b"//") && !bytes.contains(&b'\\'));
    assert!(bytes.iter().all(|byte| byte.is_ascii_graphic()), "{location:?}");
}
