//! `app.yaml`, from text to [`AppYaml`].
//!
//! Two steps. [`serde_saphyr`] reads the text into *sections* whose values are still text with a
//! place; unknown keys are collected on the way. Then every value is checked by the functions of
//! `values`. So one run reports all mistakes of a file that is YAML at all.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::values;
use super::{AppYaml, ErrorPage, StaticRule};
use crate::rewrite::RewriteError;
use crate::{Limits, RewriteRule, ServerChoice, TryRule};

/// The largest file that is read.
const SIZE_MAX: usize = 64 * 1024;
/// The most static rules in one file.
const STATICS_MAX: usize = 256;
/// The most rewriting rules in one file, and the most of `tryuri`: each request may try them all.
const REWRITES_MAX: usize = 32;
/// The most error pages in one file.
const ERRORS_MAX: usize = 32;
/// The most environment variables in one file.
const KEEP_MAX: usize = 32;

const ENV_MAX: usize = 256;

/// Why a text is no `app.yaml`: every mistake in it, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct AppYamlError {
    pub mistakes: Vec<Mistake>,
}

/// One mistake and its place; lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub line: u64,
    pub column: u64,
    pub message: String,
}

impl fmt::Display for AppYamlError {
    /// A line for each mistake: `app.yaml:3:5: unknown key "pyton"; did you mean "python"?`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            let Mistake { line, column, message } = mistake;
            write!(f, "{line_end}app.yaml:{line}:{column}: {message}")?;
        }
        Ok(())
    }
}

impl Mistake {
    fn at(place: Location, message: impl Into<String>) -> Self {
        Self { line: place.line(), column: place.column(), message: message.into() }
    }
}

/// Parses the content of an `app.yaml`.
///
/// `text` is at most 64 KiB of UTF-8 with one YAML document; an empty one gives the defaults.
/// Errors: every unknown key and bad value with its line and column, or the one place where the
/// text stops being YAML.
pub fn parse(text: &[u8]) -> Result<AppYaml, AppYamlError> {
    let text = readable(text).map_err(|mistake| AppYamlError { mistakes: vec![mistake] })?;
    let read: Option<Section<AppSection>> = serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| AppYamlError { mistakes: vec![yaml_mistake(&error)] })?;
    let Some(read) = read else { return Ok(AppYaml::default()) };
    let mut check = Check { mistakes: read.mistakes };
    let app = check.app(read.content);
    if check.mistakes.is_empty() {
        return Ok(app);
    }
    check.mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
    Err(AppYamlError { mistakes: check.mistakes })
}

fn readable(text: &[u8]) -> Result<&str, Mistake> {
    let nowhere = |message: String| Mistake { line: 1, column: 1, message };
    if text.len() > SIZE_MAX {
        return Err(nowhere(format!(
            "the file has {} bytes; at most {SIZE_MAX} are read",
            text.len()
        )));
    }
    std::str::from_utf8(text).map_err(|error| {
        let before = &text[..error.valid_up_to()];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Mistake {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64,
            column: 1 + String::from_utf8_lossy(&before[line_start..]).chars().count() as u64,
            message: "the file is not UTF-8 from here on".to_owned(),
        }
    })
}

/// The parser's bounds. A file is small and shallow, and its aliases may not make it large.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 20_000,
            max_nodes: 10_000,
            max_depth: 16,
            max_aliases: 256,
            max_anchors: 256,
        },
        with_snippet: false,
    }
}

fn yaml_mistake(error: &serde_saphyr::Error) -> Mistake {
    let error = error.without_snippet();
    let place = error.location();
    let (line, column) = place.map_or((1, 1), |place| (place.line().max(1), place.column().max(1)));
    Mistake { line, column, message: yaml_message(error) }
}

fn yaml_message(error: &serde_saphyr::Error) -> String {
    match error {
        serde_saphyr::Error::Unexpected { expected: "mapping start", .. } => {
            "there should be keys with values here".to_owned()
        }
        serde_saphyr::Error::Unexpected { expected: "sequence start", .. } => {
            "there should be a list here".to_owned()
        }
        serde_saphyr::Error::Unexpected { expected: "string scalar", .. } => {
            "there should be a single value here".to_owned()
        }
        other => {
            let text = other.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            // It names the place at its end, which we show in front.
            text.split(" at line ").next().unwrap_or(&text).to_owned()
        }
    }
}

/// One mapping of the file: what it holds under the keys it knows, and the keys it doesn't know.
struct Section<C> {
    content: C,
    mistakes: Vec<Mistake>,
}

/// What a mapping may hold.
trait Content: Default {
    /// The keys that [`Content::take`] knows, in the order in which they are shown.
    const KEYS: &[&str];
    /// Keys that the documentation names and this version can't do yet.
    const LATER: &[&str] = &[];

    /// Takes the value of `key`, one of [`Content::KEYS`], off `map`.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

impl<'de, C: Content> Deserialize<'de> for Section<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SectionVisitor(PhantomData))
    }
}

struct SectionVisitor<C>(PhantomData<C>);

impl<'de, C: Content> Visitor<'de> for SectionVisitor<C> {
    type Value = Section<C>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a mapping with keys such as {:?}", C::KEYS[0])
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut section = Section { content: C::default(), mistakes: Vec::new() };
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if C::KEYS.contains(&key.value.as_str()) {
                section.content.take(&key.value, &mut map)?;
            } else {
                map.next_value::<IgnoredAny>()?;
                let message = unknown_key(&key.value, C::KEYS, C::LATER);
                section.mistakes.push(Mistake::at(key.referenced, message));
            }
        }
        Ok(section)
    }
}

fn unknown_key(key: &str, known: &[&str], later: &[&str]) -> String {
    if later.contains(&key) {
        return format!("{key:?} is not supported yet");
    }
    let near: Vec<String> =
        values::near(key, known).into_iter().map(|name| format!("{name:?}")).collect();
    if near.is_empty() {
        format!("unknown key {key:?}; the keys here are {}", known.join(", "))
    } else {
        format!("unknown key {key:?}; did you mean {}?", near.join(" or "))
    }
}

/// A scalar as it was written, and where. Plain `3.10` stays `3.10`; nothing is the empty text.
type Scalar = Spanned<Text>;

#[derive(Default)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(Self(text.unwrap_or_default()))
    }
}

/// A mapping from names of the tenant's choice to scalars.
#[derive(Default)]
struct Pairs(Vec<(Spanned<String>, Scalar)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping from names to values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

#[derive(Default)]
struct AppSection {
    version: Option<Scalar>,
    statics: Vec<Spanned<Section<StaticSection>>>,
    rewrites: Vec<Spanned<Section<RewriteSection>>>,
    tries: Vec<Spanned<Section<TrySection>>>,
    errors: Vec<Spanned<Section<ErrorSection>>>,
    python: Option<Scalar>,
    entry: Option<Scalar>,
    server: Option<Scalar>,
    processes: Option<Scalar>,
    threads: Option<Scalar>,
    limits: Option<Section<LimitsSection>>,
    volume: Option<Scalar>,
    keep: Vec<Scalar>,
    health: Option<Scalar>,
    startup: Option<Scalar>,
    predeploy: Option<Scalar>,
    env: Pairs,
}

impl Content for AppSection {
    const KEYS: &[&str] = &[
        "version",
        "static",
        "rewrite",
        "tryuri",
        "errors",
        "python",
        "entry",
        "server",
        "processes",
        "threads",
        "limits",
        "volume",
        "keep",
        "health",
        "startup",
        "predeploy",
        "env",
    ];
    const LATER: &[&str] = &["scale", "build", "workers", "cron", "services", "nginx"];

    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "version" => self.version = Some(map.next_value()?),
            "static" => self.statics = map.next_value::<Option<_>>()?.unwrap_or_default(),
            "rewrite" => self.rewrites = map.next_value::<Option<_>>()?.unwrap_or_default(),
            "tryuri" => self.tries = map.next_value::<Option<_>>()?.unwrap_or_default(),
            "errors" => self.errors = map.next_value::<Option<_>>()?.unwrap_or_default(),
            "python" => self.python = Some(map.next_value()?),
            "entry" => self.entry = Some(map.next_value()?),
            "server" => self.server = Some(map.next_value()?),
            "processes" => self.processes = Some(map.next_value()?),
            "threads" => self.threads = Some(map.next_value()?),
            "limits" => self.limits = map.next_value()?,
            "volume" => self.volume = Some(map.next_value()?),
            "keep" => self.keep = map.next_value::<Option<_>>()?.unwrap_or_default(),
            "health" => self.health = Some(map.next_value()?),
            "startup" => self.startup = Some(map.next_value()?),
            "predeploy" => self.predeploy = Some(map.next_value()?),
            _ => self.env = map.next_value::<Option<_>>()?.unwrap_or_default(),
        }
        Ok(())
    }
}

#[derive(Default)]
struct StaticSection {
    path: Option<Scalar>,
    files: Option<Scalar>,
    expire: Option<Scalar>,
}

impl Content for StaticSection {
    const KEYS: &[&str] = &["path", "files", "expire"];

    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "path" => self.path = Some(map.next_value()?),
            "files" => self.files = Some(map.next_value()?),
            _ => self.expire = Some(map.next_value()?),
        }
        Ok(())
    }
}

/// A rule of `rewrite`.
#[derive(Default)]
struct RewriteSection {
    url: Option<Scalar>,
    script: Option<Scalar>,
}

impl Content for RewriteSection {
    const KEYS: &[&str] = &["url", "script"];

    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "url" => self.url = Some(map.next_value()?),
            _ => self.script = Some(map.next_value()?),
        }
        Ok(())
    }
}

/// A page of `errors`.
#[derive(Default)]
struct ErrorSection {
    status: Option<Scalar>,
    file: Option<Scalar>,
}

impl Content for ErrorSection {
    const KEYS: &[&str] = &["status", "file"];

    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "status" => self.status = Some(map.next_value()?),
            _ => self.file = Some(map.next_value()?),
        }
        Ok(())
    }
}

/// A rule of `tryuri`.
#[derive(Default)]
struct TrySection {
    path: Option<Scalar>,
    script: Option<Scalar>,
}

impl Content for TrySection {
    const KEYS: &[&str] = &["path", "script"];

    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "path" => self.path = Some(map.next_value()?),
            _ => self.script = Some(map.next_value()?),
        }
        Ok(())
    }
}

#[derive(Default)]
struct LimitsSection {
    cpu: Option<Scalar>,
    memory: Option<Scalar>,
    pids: Option<Scalar>,
    tmp: Option<Scalar>,
    shm: Option<Scalar>,
    files: Option<Scalar>,
    io: Option<Scalar>,
    iops: Option<Scalar>,
    bandwidth: Option<Scalar>,
    log: Option<Scalar>,
    connections: Option<Scalar>,
    body: Option<Scalar>,
    timeout: Option<Scalar>,
}

impl Content for LimitsSection {
    const KEYS: &[&str] = &[
        "cpu",
        "memory",
        "pids",
        "tmp",
        "shm",
        "files",
        "io",
        "iops",
        "bandwidth",
        "log",
        "connections",
        "body",
        "timeout",
    ];
    const LATER: &[&str] = &[];

    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "cpu" => self.cpu = Some(map.next_value()?),
            "memory" => self.memory = Some(map.next_value()?),
            "pids" => self.pids = Some(map.next_value()?),
            "tmp" => self.tmp = Some(map.next_value()?),
            "shm" => self.shm = Some(map.next_value()?),
            "files" => self.files = Some(map.next_value()?),
            "io" => self.io = Some(map.next_value()?),
            "iops" => self.iops = Some(map.next_value()?),
            "bandwidth" => self.bandwidth = Some(map.next_value()?),
            "log" => self.log = Some(map.next_value()?),
            "connections" => self.connections = Some(map.next_value()?),
            "body" => self.body = Some(map.next_value()?),
            _ => self.timeout = Some(map.next_value()?),
        }
        Ok(())
    }
}

/// Turns texts into values, and keeps what was wrong with them.
struct Check {
    mistakes: Vec<Mistake>,
}

impl Check {
    fn app(&mut self, raw: AppSection) -> AppYaml {
        self.set(&mut (), raw.version, values::version);
        let mut app = AppYaml {
            statics: self.statics(raw.statics),
            rewrites: self.rewrites(raw.rewrites),
            tries: self.tries(raw.tries),
            errors: self.errors(raw.errors),
            ..AppYaml::default()
        };
        self.set(&mut app.python, raw.python, |text| values::python(text).map(Some));
        self.set(&mut app.entry, raw.entry, |text| values::entry(text).map(Some));
        let server_place = raw.server.as_ref().map(|server| server.referenced);
        self.set(&mut app.server, raw.server, |text| values::server(text).map(Some));
        if let (Some(place), Some(ServerChoice::None), Some(_)) =
            (server_place, app.server, &app.entry)
        {
            let message = "server: none calls no entry; leave out one of the two";
            self.mistakes.push(Mistake::at(place, message));
        }
        self.set(&mut app.processes, raw.processes, values::processes);
        self.set(&mut app.threads, raw.threads, values::threads);
        self.set(&mut app.volume, raw.volume, values::volume);
        app.keep = self.keep(raw.keep, app.volume.is_some());
        self.set(&mut app.health, raw.health, |text| values::health(text).map(Some));
        self.set(&mut app.startup, raw.startup, values::startup);
        self.set(&mut app.predeploy, raw.predeploy, values::predeploy);
        self.limits(&mut app.limits, raw.limits);
        self.env(&mut app, raw.env);
        app
    }

    fn keep(&mut self, raw: Vec<Scalar>, has_volume: bool) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        for raw in raw {
            let place = raw.referenced;
            let mut path = String::new();
            self.set(&mut path, Some(raw), values::keep);
            let is_in = |path: &str, other: &str| Path::new(path).starts_with(other);
            let other = paths.iter().find(|it| is_in(it, &path) || is_in(&path, it));
            let mistake = match other {
                _ if path.is_empty() => continue,
                Some(other) => format!("keep: {path:?} and {other:?} are one in the other"),
                None if !has_volume => {
                    "keep: there is no volume to keep it on; add a line such as \"volume: 1G\""
                        .to_owned()
                }
                None if paths.len() == KEEP_MAX => format!("more than {KEEP_MAX} paths of keep"),
                None => {
                    paths.push(path);
                    continue;
                }
            };
            self.mistakes.push(Mistake::at(place, mistake));
            break;
        }
        paths
    }

    fn limits(&mut self, limits: &mut Limits, raw: Option<Section<LimitsSection>>) {
        let Some(Section { content: raw, mistakes }) = raw else { return };
        self.mistakes.extend(mistakes);
        self.set(&mut limits.cpu_millicores, raw.cpu, values::cpu);
        self.set(&mut limits.memory, raw.memory, values::memory);
        self.set(&mut limits.pids, raw.pids, values::pids);
        self.set(&mut limits.tmp, raw.tmp, values::tmp);
        self.set(&mut limits.shm, raw.shm, values::shm);
        self.set(&mut limits.files, raw.files, values::files);
        self.set(&mut limits.io, raw.io, values::io);
        self.set(&mut limits.iops, raw.iops, values::iops);
        self.set(&mut limits.bandwidth, raw.bandwidth, values::bandwidth);
        self.set(&mut limits.log, raw.log, values::log);
        self.set(&mut limits.connections, raw.connections, values::connections);
        self.set(&mut limits.body, raw.body, values::body);
        self.set(&mut limits.timeout, raw.timeout, values::timeout);
    }

    fn statics(&mut self, raw: Vec<Spanned<Section<StaticSection>>>) -> Vec<StaticRule> {
        let mut rules: Vec<StaticRule> = Vec::new();
        for Spanned { value: Section { content, mistakes }, referenced, .. } in raw {
            self.mistakes.extend(mistakes);
            let Some(rule) = self.static_rule(content, referenced) else { continue };
            if rules.len() == STATICS_MAX {
                self.mistakes
                    .push(Mistake::at(referenced, format!("more than {STATICS_MAX} rules")));
                break;
            }
            if rules.iter().any(|other| other.path == rule.path) {
                let message = format!("path {:?} is already taken by another rule", rule.path);
                self.mistakes.push(Mistake::at(referenced, message));
            }
            rules.push(rule);
        }
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.path.len()));
        rules
    }

    fn static_rule(&mut self, raw: StaticSection, place: Location) -> Option<StaticRule> {
        for (key, value) in [("path", &raw.path), ("files", &raw.files)] {
            if value.is_none() {
                self.mistakes.push(Mistake::at(place, format!("this static rule needs {key:?}")));
            }
        }
        let (mut path, mut files, mut expire) = (String::new(), String::new(), None);
        self.set(&mut path, Some(raw.path?), values::static_path);
        let folder = path.ends_with('/');
        self.set(&mut files, Some(raw.files?), |text| values::static_files(text, folder));
        self.set(&mut expire, raw.expire, values::expire);
        Some(StaticRule { path, files, expire })
    }

    fn rewrites(&mut self, raw: Vec<Spanned<Section<RewriteSection>>>) -> Vec<RewriteRule> {
        self.check_number("rewrite", &raw);
        let raw = raw.into_iter().take(REWRITES_MAX);
        let rules =
            raw.map(|Spanned { value: Section { content, mistakes }, referenced, .. }| {
                self.mistakes.extend(mistakes);
                let url = self.needed("url", content.url, referenced)?;
                let script = self.needed("script", content.script, referenced)?;
                let rule = RewriteRule::new(&url.value.0, &script.value.0);
                rule.map_err(|error| self.rewrite_mistake(&error, &url, &script)).ok()
            });
        rules.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    fn tries(&mut self, raw: Vec<Spanned<Section<TrySection>>>) -> Vec<TryRule> {
        self.check_number("tryuri", &raw);
        let raw = raw.into_iter().take(REWRITES_MAX);
        let rules =
            raw.map(|Spanned { value: Section { content, mistakes }, referenced, .. }| {
                self.mistakes.extend(mistakes);
                let path = self.needed("path", content.path, referenced)?;
                let script = self.needed("script", content.script, referenced)?;
                let rule = TryRule::new(&path.value.0, &script.value.0);
                rule.map_err(|error| self.rewrite_mistake(&error, &path, &script)).ok()
            });
        let mut rules: Vec<_> = rules.collect::<Vec<_>>().into_iter().flatten().collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.path.len()));
        rules
    }

    fn errors(&mut self, raw: Vec<Spanned<Section<ErrorSection>>>) -> Vec<ErrorPage> {
        let mut pages: Vec<ErrorPage> = Vec::new();
        for Spanned { value: Section { content, mistakes }, referenced, .. } in raw {
            self.mistakes.extend(mistakes);
            let status = self.needed("status", content.status, referenced);
            let file = self.needed("file", content.file, referenced);
            let (Some(status), Some(file)) = (status, file) else { continue };
            let mut page = ErrorPage { status: 0, file: String::new() };
            self.set(&mut page.status, Some(status), values::error_status);
            self.set(&mut page.file, Some(file), values::error_file);
            if pages.len() == ERRORS_MAX {
                let message = format!("more than {ERRORS_MAX} error pages");
                self.mistakes.push(Mistake::at(referenced, message));
                break;
            }
            if page.status != 0 && pages.iter().any(|other| other.status == page.status) {
                let message = format!("status {} has a page already", page.status);
                self.mistakes.push(Mistake::at(referenced, message));
            }
            pages.push(page);
        }
        pages
    }

    fn rewrite_mistake(&mut self, error: &RewriteError, pattern: &Scalar, script: &Scalar) {
        let place = match error {
            RewriteError::Script { .. } => script.referenced,
            _ => pattern.referenced,
        };
        self.mistakes.push(Mistake::at(place, error.to_string()));
    }

    fn check_number<T>(&mut self, key: &str, rules: &[Spanned<T>]) {
        if let Some(rule) = rules.get(REWRITES_MAX) {
            let message = format!("more than {REWRITES_MAX} rules of {key}");
            self.mistakes.push(Mistake::at(rule.referenced, message));
        }
    }

    /// The value of `key`, without which its rule at `place` is none.
    fn needed(&mut self, key: &str, value: Option<Scalar>, place: Location) -> Option<Scalar> {
        if value.is_none() {
            self.mistakes.push(Mistake::at(place, format!("this rule needs {key:?}")));
        }
        value
    }

    fn env(&mut self, app: &mut AppYaml, Pairs(pairs): Pairs) {
        for (name, value) in pairs {
            if app.env.len() == ENV_MAX {
                let message = format!("more than {ENV_MAX} variables");
                return self.mistakes.push(Mistake::at(name.referenced, message));
            }
            let mut content = String::new();
            if let Err(message) = values::env_name(&name.value) {
                self.mistakes.push(Mistake::at(name.referenced, message));
            }
            self.set(&mut content, Some(value), values::env_value);
            app.env.insert(name.value, content);
        }
    }

    /// Stores what `parse` makes of `raw` in `slot`, which is left alone where there is none.
    fn set<T>(
        &mut self,
        slot: &mut T,
        raw: Option<Scalar>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) {
        let Some(raw) = raw else { return };
        match parse(&raw.value.0) {
            Ok(value) => *slot = value,
            Err(message) => self.mistakes.push(Mistake::at(raw.referenced, message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{BitRate, Bytes, Server};

    fn read(text: &str) -> AppYaml {
        parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    fn refusal(text: &str) -> String {
        parse(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn an_error_page_is_a_status_and_a_file() {
        let app = read("errors:\n  - {status: 404, file: /errors/404.html}\n");
        assert_eq!(app.errors, [ErrorPage { status: 404, file: "errors/404.html".to_owned() }]);
        let text = concat!(
            "errors:\n",
            "  - {status: 200, file: a.html}\n",
            "  - {status: 404, file: pages/}\n",
            "  - {status: 404, file: ../b.html}\n",
            "  - {file: c.html}\n",
        );
        let mistakes = refusal(text);
        for (line, words) in [(2, "400"), (3, "folder"), (4, "already"), (5, "status")] {
            let has =
                |said: &str| said.starts_with(&format!("app.yaml:{line}:")) && said.contains(words);
            assert!(mistakes.lines().any(has), "{line} {words}: {mistakes}");
        }
    }

    #[test]
    fn rewriting_keeps_its_order_and_tries_the_longest_folder() {
        let app = read(concat!(
            "rewrite:\n",
            "  - {url: \"^/old/(.*)$\", script: \"/new/$1 permanent\"}\n",
            "  - url: ^/show/(.+)$\n    script: /show?page=$1 last\n",
            "tryuri:\n",
            "  - {path: /, script: /index.html}\n",
            "  - {path: /docs/, script: /docs/index.html}\n",
        ));
        let urls: Vec<_> = app.rewrites.iter().map(|rule| rule.regex.as_str()).collect();
        assert_eq!(urls, ["^/old/(.*)$", "^/show/(.+)$"]);
        let paths: Vec<_> = app.tries.iter().map(|rule| rule.path.as_str()).collect();
        assert_eq!(paths, ["/docs/", "/"]);
    }

    #[test]
    fn a_mistake_in_rewriting_has_its_place() {
        assert_eq!(
            refusal("rewrite:\n  - {url: ^/(a, script: /}\n  - {url: ^, script: / perment}\n"),
            "app.yaml:2:11: url: \"^/(a\" is no regular expression: unclosed group, at character 3\n\
             app.yaml:3:22: script: \"/ perment\" ends in \"perment\", which is no flag; it can be \
             last, break, redirect or permanent"
        );
        assert_eq!(
            refusal("rewrite:\n  - url: ^\ntryuri:\n  - {path: docs, script: /}\n"),
            "app.yaml:2:5: this rule needs \"script\"\n\
             app.yaml:4:12: path: \"docs\" does not begin and end with \"/\""
        );
        let many = "  - {url: ^, script: /}\n".repeat(33);
        assert_eq!(
            refusal(&format!("rewrite:\n{many}")),
            "app.yaml:34:5: more than 32 rules of rewrite"
        );
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        for text in ["", "\n", "# nothing\n", "---\n", "{}", "static:\nlimits:\nenv:\n"] {
            assert_eq!(read(text), AppYaml::default(), "{text:?}");
        }
    }

    #[test]
    fn every_key_is_understood() {
        let app = read(concat!(
            "version: 1\n",
            "static:\n",
            "  - {path: /favicon.ico, files: /favicon.ico, expire: 1y}\n",
            "  - {path: /static/, files: static, expire: 30d}\n",
            "  - {path: /static/live/, files: ./live/, expire: off}\n",
            "python: 3.10\n",
            "entry: shop.wsgi:app\n",
            "server: gunicorn\n",
            "processes: 2\n",
            "threads: 8\n",
            "limits: {cpu: 0.5, memory: 256M, pids: 64, tmp: 16M, shm: 1M, files: 512, ",
            "io: 10M, iops: 200, bandwidth: 5M, log: 10M, ",
            "connections: 50, body: none, timeout: 30s}\n",
            "volume: 1G\n",
            "health: /healthz\n",
            "startup: 90\n",
            "predeploy: python manage.py migrate\n",
            "env: {DEBUG: yes, VERSION: 1.10, EMPTY: , QUOTED: \"a b\"}\n",
        ));
        assert_eq!(app.server, Some(ServerChoice::Engine(Server::Gunicorn)));
        let paths: Vec<&str> = app.statics.iter().map(|rule| rule.path.as_str()).collect();
        assert_eq!(paths, ["/static/live/", "/favicon.ico", "/static/"]);
        assert_eq!(app.statics[0].files, "live/");
        assert_eq!(app.statics[0].expire, None);
        assert_eq!(app.statics[1].expire, Some(Duration::from_secs(365 * 86_400)));
        assert_eq!(app.statics[2].files, "static/");
        assert_eq!(app.python, "3.10".parse().ok());
        assert_eq!(app.entry, "shop.wsgi:app".parse().ok());
        assert_eq!((app.processes, app.threads), (2, 8));
        assert_eq!(app.limits.cpu_millicores, 500);
        assert_eq!((app.limits.memory, app.limits.body), (Bytes::mib(256), None));
        let Limits { io, iops, bandwidth, .. } = app.limits;
        assert_eq!((io, iops, bandwidth), (Bytes::mib(10), 200, BitRate::mega(5)));
        assert_eq!((app.volume, app.startup), (Some(Bytes::gib(1)), Duration::from_secs(90)));
        assert_eq!(app.predeploy.as_deref(), Some("python manage.py migrate"));
        assert_eq!(app.env["DEBUG"], "yes");
        assert_eq!(app.env["VERSION"], "1.10");
        assert_eq!(app.env["EMPTY"], "");
    }

    #[test]
    fn all_mistakes_come_with_their_places() {
        let text =
            "statics: []\nthreads: 500\nlimits:\n  memroy: 1G\n  cpu: lots\nscale: {max: 4}\n";
        assert_eq!(
            refusal(text).lines().collect::<Vec<_>>(),
            [
                "app.yaml:1:1: unknown key \"statics\"; did you mean \"static\"?",
                "app.yaml:2:10: threads: 500 is out of bounds; it can be from 1 to 64",
                "app.yaml:4:3: unknown key \"memroy\"; did you mean \"memory\"?",
                "app.yaml:5:8: cpu: \"lots\" is not a number of cores, such as 1, 0.5 or 500m",
                "app.yaml:6:1: \"scale\" is not supported yet",
            ]
        );
    }

    #[test]
    fn what_is_not_yaml_says_where() {
        assert!(refusal("static:\n  - {path: /a\n").starts_with("app.yaml:"), "unclosed");
        assert!(refusal("a: [\n").starts_with("app.yaml:"));
        assert!(refusal("limits: 5\n").starts_with("app.yaml:1:9: "), "{}", refusal("limits: 5\n"));
        assert!(refusal("threads: [1]\n").starts_with("app.yaml:1:10: "));
        assert_eq!(
            parse(b"version: 1\nenv: \xff").map_err(|error| error.to_string()),
            Err("app.yaml:2:6: the file is not UTF-8 from here on".to_owned())
        );
    }

    #[test]
    fn a_key_twice_is_refused() {
        assert!(refusal("threads: 1\nthreads: 2\n").starts_with("app.yaml:2:1: "));
    }

    #[test]
    fn anchors_are_fine_and_alias_bombs_are_not() {
        let app = read("static:\n- &a {path: /a/, files: a/, expire: 1d}\n- {<<: *a, path: /b/}\n");
        assert_eq!(app.statics[1].files, "a/");
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..16 {
            let reference = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [reference.as_str(); 9].join(","));
        }
        assert!(parse(bomb.as_bytes()).is_err());
        assert!(parse(&[b'['; 60_000]).is_err());
        assert!(parse(&[b'a'; SIZE_MAX + 1]).is_err());
    }

    #[test]
    fn static_rules_stay_inside_the_code() {
        for files in ["../x/", "a/../../x/", "/", ".", "./", "a//b/", "a/./b/", "\"a\\0b/\""] {
            let text = format!("static: [{{path: /s/, files: {files}}}]\n");
            assert!(parse(text.as_bytes()).is_err(), "{files}");
        }
        for path in ["s/", "/../", "/a//b", "/a?b", "\"\""] {
            let text = format!("static: [{{path: {path}, files: s/}}]\n");
            assert!(parse(text.as_bytes()).is_err(), "{path}");
        }
        assert!(refusal("static: [{path: /a, files: a/}]").contains("ends in \"/\""));
        assert!(
            refusal("static: [{path: /a}]").starts_with("app.yaml:1:10: this static rule needs")
        );
        assert!(refusal("static: [{path: /a, files: a}, {path: /a, files: b}]").contains("taken"));
    }

    #[test]
    fn what_is_kept_is_in_the_app_and_on_a_volume() {
        let app = read("volume: 1G\nkeep: [instance/, ./site/media, db.sqlite3]\n");
        assert_eq!(app.keep, ["instance", "site/media", "db.sqlite3"]);
        assert!(refusal("keep: [media]\n").contains("add a line such as \"volume: 1G\""));
        for bad in ["/etc", "../x", "a/../b", ".", "./", "\"\"", "a//b"] {
            let said = refusal(&format!("volume: 1G\nkeep: [{bad}]\n"));
            assert!(said.starts_with("app.yaml:2:8: keep: "), "{bad}: {said}");
        }
        assert!(
            refusal("volume: 1G\nkeep: [a, ab, a/b]\n").contains("\"a/b\" and \"a\" are one in")
        );
    }

    #[test]
    fn predeploy_is_one_command() {
        assert!(refusal("predeploy: \" \"").contains("leave the key out"));
        assert!(refusal("predeploy: [a, b]").contains("a single value"));
        assert!(refusal(&format!("predeploy: {}", "x".repeat(4097))).contains("at most 4096"));
    }

    #[test]
    fn what_is_known_and_not_built_is_said_so() {
        for key in AppSection::LATER {
            assert!(refusal(&format!("{key}: 1\n")).ends_with("is not supported yet"), "{key}");
        }
        assert!(refusal("server: waitress").ends_with("uvicorn, granian or none"));
        assert!(refusal("version: 2").contains("this engine reads version 1"));
    }

    #[test]
    fn an_entry_needs_a_server() {
        assert_eq!(read("server: none").server, Some(ServerChoice::None));
        let both = refusal("entry: app:app\nserver: none\n");
        assert!(both.starts_with("app.yaml:2:9: server: none calls no entry"), "{both}");
    }

    #[test]
    fn reserved_and_impossible_variables_are_refused() {
        for pair in ["ACE_APP: x", "1A: x", "A-B: x", "\"\": x", "A: \"x\\0y\""] {
            assert!(parse(format!("env: {{{pair}}}\n").as_bytes()).is_err(), "{pair}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_yaml_like_text_panics(text in "([a-z]{1,8}|static|limits|env|[-:,\\[\\]{}&*!|>'\"%@ \n0-9]){0,64}") {
            if let Err(error) = parse(text.as_bytes()) {
                prop_assert!(!error.mistakes.is_empty());
                prop_assert!(error.mistakes.iter().all(|mistake| mistake.line > 0));
            }
        }
    }
}
