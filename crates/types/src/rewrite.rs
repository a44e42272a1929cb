//! `rewrite` and `tryuri` of `app.yaml`: where requests go instead. Only what the rules are stands
//! here; the gateway follows them.
//!
//! The words are nginx's. A rule's `url` is a regular expression that is matched against the path,
//! decoded and without its query; its `script` is a replacement and, after a space, a flag.
//! Expressions take time that is linear in the path: there is no looking around and no reference
//! back to a group. Source: <https://nginx.org/en/docs/http/ngx_http_rewrite_module.html>.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Requests whose path matches go elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "RewriteText", into = "RewriteText")]
pub struct RewriteRule {
    pub regex: Regex,
    pub replacement: Replacement,
    pub flag: Flag,
    script: String,
}

/// What has no static file below `path` goes to `script`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TryText", into = "TryText")]
pub struct TryRule {
    /// Begins and ends with `/`.
    pub path: String,
    pub script: Replacement,
}

/// What a path and its query become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// Begins with a scheme: only a redirect can lead there.
    pub is_absolute: bool,
    pub path: Template,
    pub query: Option<Template>,
    /// The request's own query follows; not so where the replacement ends in `?`.
    pub keeps_query: bool,
    text: String,
}

/// A text with gaps.
pub type Template = Vec<Piece>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// What the group of this number matched.
    Group(usize),
    Variable(Variable),
}

/// Something of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// The path as it is by then, decoded.
    Uri,
    /// The query as it is by then.
    Args,
    /// `?` where there is a query.
    IsArgs,
    /// One value in the query, by its name.
    Arg(String),
    /// Path and query as the client sent them.
    RequestUri,
    RequestMethod,
    /// `http` or `https`.
    Scheme,
    /// Without port.
    Host,
    /// With the port, if the client named one.
    HttpHost,
}

/// What follows a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// The next rule, with what the path is now.
    None,
    /// The first rule again, with what the path is now.
    Last,
    /// No more rules.
    Break,
    /// The client is sent there, for now: 302.
    Redirect,
    /// The client is sent there, for good: 301.
    Permanent,
}

/// Why there is no such rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    #[error("url: {url:?} is longer than {URL_BYTES_MAX} bytes")]
    Long { url: String },
    #[error("url: {url:?} is no regular expression: {why}, at character {at}")]
    Syntax { url: String, why: String, at: usize },
    #[error("url: {url:?} makes too large an expression; repeat less, or split it")]
    Large { url: String },
    #[error("script: {script:?} {wrong}")]
    Script { script: String, wrong: String },
    #[error("path: {path:?} does not begin and end with \"/\"")]
    Path { path: String },
}

const URL_BYTES_MAX: usize = 512;
const SCRIPT_BYTES_MAX: usize = 1024;

/// What a compiled expression may take in memory; together with the bound on paths it bounds the
/// time of a match.
const REGEX_BYTES_MAX: usize = 16 * 1024;

const VARIABLES: &str = "$uri, $args, $is_args, $arg_NAME, $request_uri, $request_method, $scheme, \
                         $host and $http_host";

impl RewriteRule {
    /// `url` is a regular expression; `script` a replacement and a flag.
    pub fn new(url: &str, script: &str) -> Result<Self, RewriteError> {
        let regex = compile(url)?;
        let bad = |wrong: &str| bad_script(script, wrong);
        let mut words = script.split_ascii_whitespace();
        let text = words.next().ok_or_else(|| bad("is empty"))?;
        let flag = words.next().map_or(Ok(Flag::None), |word| flag(word).map_err(|it| bad(&it)))?;
        if words.next().is_some() {
            return Err(bad("is more than a replacement and a flag"));
        }
        let replacement = Replacement::parse(text, &regex).map_err(|wrong| bad(&wrong))?;
        // As nginx has it: who names a scheme means a redirect.
        let flag = match (replacement.is_absolute, flag) {
            (true, Flag::None | Flag::Last | Flag::Break) => Flag::Redirect,
            (_, flag) => flag,
        };
        Ok(Self { regex, replacement, flag, script: script.to_owned() })
    }
}

impl PartialEq for RewriteRule {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.script == other.script
    }
}

impl TryRule {
    /// `path` is a folder's; `script` a path in the app, with or without a query.
    pub fn new(path: &str, script: &str) -> Result<Self, RewriteError> {
        if !path.starts_with('/') || !path.ends_with('/') {
            return Err(RewriteError::Path { path: path.to_owned() });
        }
        let bad = |wrong: &str| bad_script(script, wrong);
        if script.contains(|c: char| c.is_ascii_whitespace()) {
            return Err(bad("is more than a path; there are no flags here"));
        }
        let mut parsed = Replacement::parse(script, &compile("^")?).map_err(|wrong| bad(&wrong))?;
        if parsed.is_absolute {
            return Err(bad("is not in this app; `rewrite` can send clients elsewhere"));
        }
        // nginx's try_files keeps no query by itself, so it is often written out.
        let has_args = |query: &Template| query.contains(&Piece::Variable(Variable::Args));
        parsed.keeps_query &= !parsed.query.as_ref().is_some_and(has_args);
        Ok(Self { path: path.to_owned(), script: parsed })
    }
}

impl Replacement {
    fn parse(text: &str, regex: &Regex) -> Result<Self, String> {
        if text.len() > SCRIPT_BYTES_MAX {
            return Err(format!("is longer than {SCRIPT_BYTES_MAX} bytes"));
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || ";\"'\\<>#".contains(*c)) {
            return Err(format!("holds {bad:?}, which can't stand in a path"));
        }
        let is_absolute =
            ["http://", "https://", "$scheme://"].iter().any(|begin| text.starts_with(begin));
        if !is_absolute && !text.starts_with(['/', '$']) {
            return Err("begins neither with \"/\" nor with http:// or https://".to_owned());
        }
        let kept = text.strip_suffix('?');
        let (path, query) = match kept.unwrap_or(text).split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (kept.unwrap_or(text), None),
        };
        let (mut path, query) =
            (template(path, regex)?, query.map(|query| template(query, regex)).transpose()?);
        // Often written for nginx, and all it says is that the query is kept.
        let says_so = [Piece::Variable(Variable::IsArgs), Piece::Variable(Variable::Args)];
        let keeps_query = path.ends_with(&says_so);
        if keeps_query {
            path.truncate(path.len() - says_so.len());
        }
        let keeps_query = keeps_query || kept.is_none();
        Ok(Self { is_absolute, path, query, keeps_query, text: text.to_owned() })
    }
}

/// Compiles what `url` of a rule says.
fn compile(url: &str) -> Result<Regex, RewriteError> {
    if url.len() > URL_BYTES_MAX {
        return Err(RewriteError::Long { url: url.to_owned() });
    }
    check_syntax(url)?;
    RegexBuilder::new(url)
        .unicode(false)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|_| RewriteError::Large { url: url.to_owned() })
}

/// Finds what is wrong with an expression, and where; `regex` itself says so in several lines.
fn check_syntax(url: &str) -> Result<(), RewriteError> {
    let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
    let (why, at) = match parser.parse(url) {
        Ok(_) => return Ok(()),
        Err(regex_syntax::Error::Parse(error)) => (reason(error.kind()), error.span().start.offset),
        Err(regex_syntax::Error::Translate(error)) => {
            (error.kind().to_string(), error.span().start.offset)
        }
        Err(error) => (error.to_string(), 0),
    };
    let at = 1 + url.get(..at).map_or(0, |before| before.chars().count());
    Err(RewriteError::Syntax { url: url.to_owned(), why, at })
}

fn reason(kind: &regex_syntax::ast::ErrorKind) -> String {
    use regex_syntax::ast::ErrorKind;
    let why = "since no request may take more than linear time";
    match kind {
        ErrorKind::UnsupportedLookAround => {
            format!("looking ahead or behind, as in (?!…) and (?=…), is not supported, {why}")
        }
        ErrorKind::UnsupportedBackreference => {
            format!("referring back to a group, as in \\1, is not supported, {why}")
        }
        kind => kind.to_string(),
    }
}

fn flag(word: &str) -> Result<Flag, String> {
    match word {
        "last" => Ok(Flag::Last),
        "break" => Ok(Flag::Break),
        "redirect" => Ok(Flag::Redirect),
        "permanent" => Ok(Flag::Permanent),
        _ => Err(format!(
            "ends in {word:?}, which is no flag; it can be last, break, redirect or permanent"
        )),
    }
}

fn template(text: &str, regex: &Regex) -> Result<Template, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let (name, tail) =
            name(after).ok_or_else(|| format!("has a \"$\" without a name: {after:?}"))?;
        pieces.push(gap(name, regex)?);
        rest = tail;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// The name at the beginning of `text`, which follows a `$`, and what comes after it.
fn name(text: &str) -> Option<(&str, &str)> {
    if let Some(braced) = text.strip_prefix('{') {
        return braced.split_once('}').filter(|(name, _)| !name.is_empty());
    }
    let is_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let end = if is_digit { 1 } else { text.find(ends).unwrap_or(text.len()) };
    text.split_at_checked(end).filter(|(name, _)| !name.is_empty())
}

fn gap(name: &str, regex: &Regex) -> Result<Piece, String> {
    if let Ok(number) = name.parse::<usize>() {
        let groups = regex.captures_len() - 1;
        return match (1..=groups).contains(&number) {
            true => Ok(Piece::Group(number)),
            false => Err(format!("refers to ${number}, and the url has {groups} groups")),
        };
    }
    let group = regex.capture_names().position(|group| group == Some(name));
    match (group, variable(name)) {
        (Some(number), _) => Ok(Piece::Group(number)),
        (None, Some(variable)) => Ok(Piece::Variable(variable)),
        (None, None) => Err(format!("refers to ${name}; known are {VARIABLES}")),
    }
}

fn variable(name: &str) -> Option<Variable> {
    Some(match name {
        "uri" | "document_uri" => Variable::Uri,
        "args" | "query_string" => Variable::Args,
        "is_args" => Variable::IsArgs,
        "request_uri" => Variable::RequestUri,
        "request_method" => Variable::RequestMethod,
        "scheme" => Variable::Scheme,
        "host" => Variable::Host,
        "http_host" => Variable::HttpHost,
        _ => Variable::Arg(name.strip_prefix("arg_").filter(|name| !name.is_empty())?.to_owned()),
    })
}

fn bad_script(script: &str, wrong: &str) -> RewriteError {
    RewriteError::Script { script: script.to_owned(), wrong: wrong.to_owned() }
}

/// A [`RewriteRule`] as it is written down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RewriteText {
    url: String,
    script: String,
}

impl TryFrom<RewriteText> for RewriteRule {
    type Error = RewriteError;

    fn try_from(text: RewriteText) -> Result<Self, RewriteError> {
        Self::new(&text.url, &text.script)
    }
}

impl From<RewriteRule> for RewriteText {
    fn from(rule: RewriteRule) -> Self {
        Self { url: rule.regex.as_str().to_owned(), script: rule.script }
    }
}

/// A [`TryRule`] as it is written down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TryText {
    path: String,
    script: String,
}

impl TryFrom<TryText> for TryRule {
    type Error = RewriteError;

    fn try_from(text: TryText) -> Result<Self, RewriteError> {
        Self::new(&text.path, &text.script)
    }
}

impl From<TryRule> for TryText {
    fn from(rule: TryRule) -> Self {
        Self { path: rule.path, script: rule.script.text }
    }
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str, script: &str) -> String {
        RewriteRule::new(url, script).expect_err(script).to_string()
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    #[test]
    fn a_script_is_a_replacement_and_a_flag() {
        let rule = RewriteRule::new("^/old/(.*)$", "/new/$1?a=${1}&b=$arg_c permanent").unwrap();
        assert_eq!(rule.flag, Flag::Permanent);
        assert_eq!(rule.replacement.path, [text("/new/"), Piece::Group(1)]);
        let arg = Piece::Variable(Variable::Arg("c".to_owned()));
        let query = vec![text("a="), Piece::Group(1), text("&b="), arg];
        assert_eq!(rule.replacement.query, Some(query));
        assert!(rule.replacement.keeps_query);
    }

    #[test]
    fn a_question_mark_at_the_end_drops_the_query() {
        let target = |script: &str| RewriteRule::new("^", script).unwrap().replacement;
        assert!(!target("/new?").keeps_query && target("/new?").query.is_none());
        assert!(!target("/new?a=b?").keeps_query && target("/new?a=b?").query.is_some());
        assert!(target("/new?a=b").keeps_query);
    }

    #[test]
    fn a_query_that_is_written_out_is_not_kept_twice() {
        for (script, keeps_query) in [
            ("/index.html", true),
            ("/index.html?", false),
            ("/index.html$is_args$args", true),
            ("/index.html?$args", false),
            ("/index.html?a=b", true),
        ] {
            let rule = TryRule::new("/", script).unwrap();
            assert_eq!(rule.script.keeps_query, keeps_query, "{script}");
            assert_eq!(rule.script.path, [text("/index.html")], "{script}");
        }
        assert!(TryRule::new("/", "https://example.com/").is_err());
        assert!(TryRule::new("/docs", "/index.html").is_err());
    }

    #[test]
    fn a_scheme_is_a_redirect() {
        for (script, flag) in [
            ("https://example.com$request_uri? permanent", Flag::Permanent),
            ("http://example.com/ last", Flag::Redirect),
            ("$scheme://$host/a", Flag::Redirect),
            ("/a", Flag::None),
            ("$1 break", Flag::Break),
        ] {
            assert_eq!(RewriteRule::new("^(.*)", script).unwrap().flag, flag, "{script}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (url, script, words) in [
            ("^/a(b", "/", "unclosed group, at character 4"),
            ("^/(?!a)", "/", "looking ahead or behind, as in (?!…) and (?=…), is not supported"),
            ("^/(a)\\1", "/", "referring back to a group, as in \\1, is not supported"),
            ("^/\u{e9}[", "/", "at character 4"),
            ("a{900}{900}", "/", "makes too large an expression"),
            ("^", "/a perment", "it can be last, break, redirect or permanent"),
            ("^", "/a last now", "more than a replacement and a flag"),
            ("^(a)", "/$2", "refers to $2, and the url has 1 groups"),
            ("^", "/$nginx_version", "known are $uri, $args"),
            ("^", "/a$", "has a \"$\" without a name"),
            ("^", "a", "begins neither with \"/\""),
            ("^", "/a;", "holds ';'"),
            ("^", " ", "is empty"),
        ] {
            let refusal = refusal(url, script);
            assert!(refusal.contains(words), "{refusal}");
        }
    }

    #[test]
    fn rules_survive_being_stored() {
        let rule = RewriteRule::new("^/(?<page>[a-z]+)$", "/show?page=$page last").unwrap();
        let stored = serde_saphyr::from_str::<RewriteRule>(
            "{url: '^/(?<page>[a-z]+)$', script: '/show?page=$page last'}",
        );
        assert_eq!(stored.unwrap(), rule);
        assert!(serde_saphyr::from_str::<RewriteRule>("{url: '(', script: '/'}").is_err());
        let rule = TryRule::new("/docs/", "/index.html").unwrap();
        let stored = serde_saphyr::from_str::<TryRule>("{path: /docs/, script: /index.html}");
        assert_eq!(stored.unwrap(), rule);
    }
}
