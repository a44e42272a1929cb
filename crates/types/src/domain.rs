//! Names besides its own at which an app answers.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::name::{HostName, NameError};

/// `www.example.com`, or `*.example.com` for every name that has one label before `example.com`.
///
/// Made of any spelling (capitals, other scripts, a dot at its end), kept as it stands in a `Host` header.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain {
    /// Without the `*.`.
    host: HostName,
    is_wildcard: bool,
}

impl JsonSchema for Domain {
    fn schema_name() -> Cow<'static, str> {
        "Domain".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let any_name = r"^(\*\.)?[a-z0-9.-]{1,253}$";
        // Not every name that is taken, but names that are: Unicode's rules fit in no pattern.
        let plain_name =
            r"^([a-z]{2,20}|(\*\.)?([a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,1}\.){1,4}[a-z]{2,20})$";
        json_schema!({
            "type": "string",
            "pattern": if generator.contract().is_serialize() { any_name } else { plain_name },
            "examples": ["www.example.com", "*.example.com"],
        })
    }
}

/// Why a string is not a domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    #[error(
        "a domain is a name alone, such as www.example.com, without a scheme, a port or a path"
    )]
    NotAlone,
    #[error("an address is no domain; give a name")]
    Address,
    #[error("\"*\" can only be a domain's whole first part, as in *.example.com")]
    Star,
    #[error(
        "\"*.{0}\" would take too many names; a domain with \"*\" has two parts or more after it"
    )]
    TooWide(HostName),
    #[error("that is no domain name")]
    Idna,
    #[error("that is no domain name")]
    Name(#[from] NameError),
}

impl Domain {
    /// The name itself; for `*.example.com`, `example.com`.
    pub fn host(&self) -> &HostName {
        &self.host
    }

    pub fn is_wildcard(&self) -> bool {
        self.is_wildcard
    }

    /// Whether there is a name that both lead to their apps.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.is_wildcard, other.is_wildcard) {
            (true, false) => other.host.parent() == Some(self.host.as_str()),
            (false, true) => other.overlaps(self),
            (true, true) | (false, false) => self.host == other.host,
        }
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let (name, is_wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(DomainError::Star);
        }
        if name.contains(['/', ':', '@', '?', '#']) {
            return Err(DomainError::NotAlone);
        }
        let name = idna::domain_to_ascii_strict(name.strip_suffix('.').unwrap_or(name));
        let host: HostName = name.map_err(|_| DomainError::Idna)?.parse()?;
        let last = host.as_str().rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DomainError::Address);
        }
        if is_wildcard && host.parent().is_none() {
            return Err(DomainError::TooWide(host));
        }
        Ok(Self { host, is_wildcard })
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.to_string()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_wildcard { "*." } else { "" };
        f.pad(&format!("{star}{}", self.host))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    #[test]
    fn any_spelling_becomes_that_of_a_host_header() {
        for (text, kept) in [
            ("www.example.com", "www.example.com"),
            ("WWW.Example.COM.", "www.example.com"),
            ("*.Example.com", "*.example.com"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("\u{4f8b}\u{3048}.\u{30c6}\u{30b9}\u{30c8}", "xn--r8jz45g.xn--zckzah"),
            ("intranet", "intranet"),
        ] {
            assert_eq!(domain(text).to_string(), kept);
        }
    }

    #[test]
    fn what_is_no_name_says_why() {
        let error = |text: &str| text.parse::<Domain>().unwrap_err();
        for text in ["http://example.com", "example.com:80", "example.com/shop", "me@example.com"] {
            assert_eq!(error(text), DomainError::NotAlone, "{text}");
        }
        assert_eq!(error("::1"), DomainError::NotAlone);
        assert_eq!(error("10.0.0.1"), DomainError::Address);
        for text in ["*", "www.*.com", "w*.example.com", "*.*.example.com"] {
            assert_eq!(error(text), DomainError::Star, "{text}");
        }
        assert!(matches!(error("*.com"), DomainError::TooWide(_)));
        for text in ["", ".", "*.", "a..b", "-a.com", "a_b.com", "a b.com", "xn--a", "a.com.."] {
            assert!(text.parse::<Domain>().is_err(), "{text:?}");
        }
        assert!(format!("{}.com", "a".repeat(64)).parse::<Domain>().is_err());
        assert!(format!("{}com", "abcdefg.".repeat(40)).parse::<Domain>().is_err());
    }

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(domain("*.example.com").overlaps(&domain("www.example.com")));
        assert!(domain("www.example.com").overlaps(&domain("*.example.com")));
        assert!(!domain("*.example.com").overlaps(&domain("a.b.example.com")));
        assert!(!domain("*.example.com").overlaps(&domain("example.com")));
        assert!(!domain("*.example.com").overlaps(&domain("*.b.example.com")));
        assert!(domain("*.example.com").overlaps(&domain("*.example.com")));
    }

    proptest! {
        #[test]
        fn what_was_read_once_is_read_again_alike(text in ".{0,80}") {
            if let Ok(domain) = text.parse::<Domain>() {
                prop_assert_eq!(domain.to_string().parse::<Domain>(), Ok(domain));
            }
        }
    }
}
