//! Limits that are set beside an app's code, and override those of its `app.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::app_yaml::values;
use crate::{BitRate, Bytes, Limits};

/// Which limit. The names are those of `app.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitKey {
    Cpu,
    Memory,
    Pids,
    Tmp,
    Shm,
    Files,
    Io,
    Iops,
    Bandwidth,
    Log,
    Connections,
    Body,
    Timeout,
}

/// One limit and what it is. See [`Limits`] for what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// In thousandths of a core.
    Cpu(u32),
    Memory(Bytes),
    Pids(u32),
    Tmp(Bytes),
    Shm(Bytes),
    Files(u32),
    /// A second, each way.
    Io(Bytes),
    Iops(u32),
    Bandwidth(BitRate),
    Log(Bytes),
    Connections(u32),
    Body(Option<Bytes>),
    Timeout(Duration),
}

/// Limits, at most one of each kind, within the bounds that `app.yaml` has too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct LimitOverrides(BTreeMap<LimitKey, Limit>);

/// What is to be different in [`LimitOverrides`]: texts by the names of limits. Not checked before
/// it's applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitChange {
    #[serde(default)]
    #[schemars(schema_with = "values_schema")]
    pub set: BTreeMap<String, String>,
    /// Limits that are to be what `app.yaml` says, or the default. None can be both set and reset.
    #[serde(default)]
    #[schemars(schema_with = "names_schema")]
    pub reset: BTreeSet<String>,
}

/// Each limit as [`Limit::parse`] takes it; that takes some other spellings, too, such as `512MiB`.
fn values_schema(_: &mut SchemaGenerator) -> Schema {
    let one = |key: LimitKey| {
        let schema = json_schema!({ "type": "string", "pattern": key.pattern() });
        (key.name().to_owned(), schema.to_value())
    };
    let all: serde_json::Map<_, _> = LimitKey::ALL.into_iter().map(one).collect();
    json_schema!({ "type": "object", "properties": all, "additionalProperties": false })
}

fn names_schema(_: &mut SchemaGenerator) -> Schema {
    let names = LimitKey::ALL.map(LimitKey::name);
    json_schema!({ "type": "array", "items": { "enum": names } })
}

/// Why a text is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("there is no limit {name:?}; {way_out}")]
    Unknown { name: String, way_out: String },
    /// The sentence begins with the limit's name.
    #[error("{0}")]
    Value(String),
    #[error("{0}: it can't be both set and reset")]
    Both(&'static str),
}

impl LimitKey {
    pub const ALL: [Self; 13] = [
        Self::Cpu,
        Self::Memory,
        Self::Pids,
        Self::Tmp,
        Self::Shm,
        Self::Files,
        Self::Io,
        Self::Iops,
        Self::Bandwidth,
        Self::Log,
        Self::Connections,
        Self::Body,
        Self::Timeout,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Tmp => "tmp",
            Self::Shm => "shm",
            Self::Files => "files",
            Self::Io => "io",
            Self::Iops => "iops",
            Self::Bandwidth => "bandwidth",
            Self::Log => "log",
            Self::Connections => "connections",
            Self::Body => "body",
            Self::Timeout => "timeout",
        }
    }

    /// A regular expression for its values within their bounds.
    fn pattern(self) -> &'static str {
        match self {
            Self::Cpu => r"^(0\.(0[5-9]|[1-9][0-9]?)|[1-9][0-9]?|1[01][0-9]|12[0-8])$",
            Self::Memory => {
                r"^((3[2-9]|[4-9][0-9]|[1-9][0-9]{2,5})M|([1-9][0-9]{0,2}|10[01][0-9]|102[0-4])G)$"
            }
            Self::Pids => r"^([89]|[1-9][0-9]{1,3}|[12][0-9]{4}|32768)$",
            Self::Tmp => r"^([1-9][0-9]{0,3}M|([1-9]|[1-5][0-9]|6[0-4])G)$",
            Self::Shm => {
                r"^((6[4-9]|[7-9][0-9]|[1-9][0-9]{2,3})K|[1-9][0-9]{0,3}M|([1-9]|[1-5][0-9]|6[0-4])G)$"
            }
            Self::Files => r"^(6[4-9]|[7-9][0-9]|[1-9][0-9]{2,5}|1048576)$",
            Self::Io => {
                r"^((6[4-9]|[7-9][0-9]|[1-9][0-9]{2,3})K|[1-9][0-9]{0,3}M|[1-9][0-9]{0,2}G|1T)$"
            }
            Self::Iops => r"^([1-9][0-9]{1,6}|10000000)$",
            Self::Bandwidth => r"^([1-9][0-9]{0,3}M|([1-9][0-9]?|100)G)$",
            Self::Log => r"^([1-9][0-9]{0,3}M|([1-9]|10)G)$",
            Self::Connections => r"^([1-9][0-9]{0,4}|100000)$",
            Self::Body => r"^([1-9][0-9]{0,3}[KM]|[1-9][0-9]{0,2}G|1T|none)$",
            Self::Timeout => r"^([1-9][0-9]{0,2}s|([1-9]|[1-5][0-9])m|1h)$",
        }
    }
}

impl FromStr for LimitKey {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let known = Self::ALL.into_iter().find(|key| key.name() == text);
        known.ok_or_else(|| {
            let name: String = text.chars().take(64).collect();
            let all = Self::ALL.map(Self::name);
            let way_out = match values::near(&name, &all).first() {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("there are {}", all.join(", ")),
            };
            LimitError::Unknown { name, way_out }
        })
    }
}

impl Limit {
    /// The limit `key` as `app.yaml` would write it: `512M`, `0.5`, `60s`.
    pub fn parse(key: LimitKey, text: &str) -> Result<Self, LimitError> {
        let parsed = match key {
            LimitKey::Cpu => values::cpu(text).map(Self::Cpu),
            LimitKey::Memory => values::memory(text).map(Self::Memory),
            LimitKey::Pids => values::pids(text).map(Self::Pids),
            LimitKey::Tmp => values::tmp(text).map(Self::Tmp),
            LimitKey::Shm => values::shm(text).map(Self::Shm),
            LimitKey::Files => values::files(text).map(Self::Files),
            LimitKey::Io => values::io(text).map(Self::Io),
            LimitKey::Iops => values::iops(text).map(Self::Iops),
            LimitKey::Bandwidth => values::bandwidth(text).map(Self::Bandwidth),
            LimitKey::Log => values::log(text).map(Self::Log),
            LimitKey::Connections => values::connections(text).map(Self::Connections),
            LimitKey::Body => values::body(text).map(Self::Body),
            LimitKey::Timeout => values::timeout(text).map(Self::Timeout),
        };
        parsed.map_err(LimitError::Value)
    }

    /// The limit `key` of `limits`.
    pub fn of(limits: &Limits, key: LimitKey) -> Self {
        match key {
            LimitKey::Cpu => Self::Cpu(limits.cpu_millicores),
            LimitKey::Memory => Self::Memory(limits.memory),
            LimitKey::Pids => Self::Pids(limits.pids),
            LimitKey::Tmp => Self::Tmp(limits.tmp),
            LimitKey::Shm => Self::Shm(limits.shm),
            LimitKey::Files => Self::Files(limits.files),
            LimitKey::Io => Self::Io(limits.io),
            LimitKey::Iops => Self::Iops(limits.iops),
            LimitKey::Bandwidth => Self::Bandwidth(limits.bandwidth),
            LimitKey::Log => Self::Log(limits.log),
            LimitKey::Connections => Self::Connections(limits.connections),
            LimitKey::Body => Self::Body(limits.body),
            LimitKey::Timeout => Self::Timeout(limits.timeout),
        }
    }

    /// Which limit it is.
    pub fn key(self) -> LimitKey {
        match self {
            Self::Cpu(_) => LimitKey::Cpu,
            Self::Memory(_) => LimitKey::Memory,
            Self::Pids(_) => LimitKey::Pids,
            Self::Tmp(_) => LimitKey::Tmp,
            Self::Shm(_) => LimitKey::Shm,
            Self::Files(_) => LimitKey::Files,
            Self::Io(_) => LimitKey::Io,
            Self::Iops(_) => LimitKey::Iops,
            Self::Bandwidth(_) => LimitKey::Bandwidth,
            Self::Log(_) => LimitKey::Log,
            Self::Connections(_) => LimitKey::Connections,
            Self::Body(_) => LimitKey::Body,
            Self::Timeout(_) => LimitKey::Timeout,
        }
    }

    /// Whether it allows more than `other`, a limit of the same kind.
    pub fn is_above(self, other: Self) -> bool {
        match (self, other) {
            (Self::Body(None), Self::Body(other)) => other.is_some(),
            (Self::Body(Some(_)), Self::Body(None)) => false,
            (limit, other) => limit > other,
        }
    }

    fn apply(self, limits: &mut Limits) {
        match self {
            Self::Cpu(millicores) => limits.cpu_millicores = millicores,
            Self::Memory(size) => limits.memory = size,
            Self::Pids(count) => limits.pids = count,
            Self::Tmp(size) => limits.tmp = size,
            Self::Shm(size) => limits.shm = size,
            Self::Files(count) => limits.files = count,
            Self::Io(rate) => limits.io = rate,
            Self::Iops(rate) => limits.iops = rate,
            Self::Bandwidth(rate) => limits.bandwidth = rate,
            Self::Log(size) => limits.log = size,
            Self::Connections(count) => limits.connections = count,
            Self::Body(size) => limits.body = size,
            Self::Timeout(time) => limits.timeout = time,
        }
    }
}

impl fmt::Display for Limit {
    /// As [`Limit::parse`] takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(millicores) => write!(f, "{}", f64::from(*millicores) / 1000.0),
            Self::Memory(size)
            | Self::Tmp(size)
            | Self::Shm(size)
            | Self::Io(size)
            | Self::Log(size) => write!(f, "{size}"),
            Self::Pids(count)
            | Self::Files(count)
            | Self::Iops(count)
            | Self::Connections(count) => write!(f, "{count}"),
            Self::Bandwidth(rate) => write!(f, "{rate}"),
            Self::Body(Some(size)) => write!(f, "{size}"),
            Self::Body(None) => f.write_str("none"),
            Self::Timeout(time) => write!(f, "{}s", time.as_secs()),
        }
    }
}

impl LimitOverrides {
    /// These overrides with `change` in them.
    pub fn with(&self, change: &LimitChange) -> Result<Self, LimitError> {
        let mut limits = self.0.clone();
        for name in &change.reset {
            limits.remove(&name.parse()?);
        }
        for (name, text) in &change.set {
            let key: LimitKey = name.parse()?;
            if change.reset.contains(name) {
                return Err(LimitError::Both(key.name()));
            }
            limits.insert(key, Limit::parse(key, text)?);
        }
        Ok(Self(limits))
    }

    /// What `limits` become.
    pub fn over(&self, limits: &Limits) -> Limits {
        let mut limits = limits.clone();
        self.0.values().for_each(|limit| limit.apply(&mut limits));
        limits
    }

    pub fn has(&self, key: LimitKey) -> bool {
        self.0.contains_key(&key)
    }

    /// Limits that are not the same in `other`, or that only one of the two has.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let differs = |key: &LimitKey| self.0.get(key) != other.0.get(key);
        LimitKey::ALL.into_iter().filter(differs).map(|key| key.name().to_owned()).collect()
    }
}

impl TryFrom<BTreeMap<String, String>> for LimitOverrides {
    type Error = LimitError;

    fn try_from(set: BTreeMap<String, String>) -> Result<Self, LimitError> {
        Self::default().with(&LimitChange { set, reset: BTreeSet::new() })
    }
}

impl From<LimitOverrides> for BTreeMap<String, String> {
    fn from(limits: LimitOverrides) -> Self {
        limits.0.iter().map(|(key, limit)| (key.name().to_owned(), limit.to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(set: &[(&str, &str)], reset: &[&str]) -> LimitChange {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        LimitChange {
            set: set.iter().map(owned).collect(),
            reset: reset.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn an_override_wins_and_can_be_taken_back() {
        let none = LimitOverrides::default();
        let set = none.with(&change(&[("memory", "1G"), ("cpu", "0.5")], &[])).expect("limits");
        let limits = set.over(&Limits::for_app());
        assert_eq!((limits.memory, limits.cpu_millicores), (Bytes::gib(1), 500));
        let reset = set.with(&change(&[], &["memory", "pids"])).expect("limits");
        assert_eq!(reset.over(&Limits::for_app()).memory, Bytes::mib(512));
        assert_eq!(set.difference(&reset), ["memory"]);
        assert!(reset.has(LimitKey::Cpu) && !reset.has(LimitKey::Memory));
    }

    #[test]
    fn bounds_are_those_of_app_yaml() {
        let refuse = |name, text| {
            let error = LimitOverrides::default().with(&change(&[(name, text)], &[]));
            error.expect_err(text).to_string()
        };
        assert!(refuse("memory", "1M").contains("out of bounds"));
        assert_eq!(
            refuse("memroy", "1G"),
            "there is no limit \"memroy\"; did you mean \"memory\"?"
        );
        assert!(refuse("colour", "1").contains("there are cpu, memory"));
        let both = LimitOverrides::default().with(&change(&[("cpu", "1")], &["cpu"]));
        assert_eq!(both, Err(LimitError::Both("cpu")));
    }

    #[test]
    fn every_limit_survives_its_text() {
        for key in LimitKey::ALL {
            let limit = Limit::of(&Limits::for_app(), key);
            assert_eq!(Limit::parse(key, &limit.to_string()), Ok(limit));
        }
        let odd = [(LimitKey::Cpu, "1.25"), (LimitKey::Body, "none"), (LimitKey::Timeout, "90s")];
        for (key, text) in odd {
            let limit = Limit::parse(key, text).map(|limit| limit.to_string());
            assert_eq!(limit.as_deref(), Ok(text));
        }
        let set = change(&[("body", "none"), ("cpu", "2")], &[]);
        let limits = LimitOverrides::default().with(&set).expect("limits");
        let texts: BTreeMap<String, String> = limits.clone().into();
        assert_eq!(LimitOverrides::try_from(texts), Ok(limits));
    }

    #[test]
    fn the_pattern_of_a_limit_takes_its_bounds_and_nothing_beyond() {
        for (key, good, bad) in [
            (LimitKey::Cpu, ["0.05", "0.5", "128"], ["0.04", "129", "0"]),
            (LimitKey::Memory, ["32M", "1G", "1024G"], ["31M", "1025G", "1048577M"]),
            (LimitKey::Pids, ["8", "256", "32768"], ["7", "32769", "x"]),
            (LimitKey::Tmp, ["1M", "512M", "64G"], ["0M", "65G", "1K"]),
            (LimitKey::Shm, ["64K", "16M", "64G"], ["63K", "65G", "0M"]),
            (LimitKey::Files, ["64", "4096", "1048576"], ["63", "1048577", ""]),
            (LimitKey::Io, ["64K", "20M", "1T"], ["63K", "2T", "0M"]),
            (LimitKey::Iops, ["10", "1000", "10000000"], ["9", "10000001", "1K"]),
            (LimitKey::Bandwidth, ["1M", "50M", "100G"], ["999K", "101G", "0M"]),
            (LimitKey::Log, ["1M", "50M", "10G"], ["0M", "11G", "1K"]),
            (LimitKey::Connections, ["1", "1000", "100000"], ["0", "100001", "-1"]),
            (LimitKey::Body, ["1K", "1T", "none"], ["0K", "2T", "None"]),
            (LimitKey::Timeout, ["1s", "59m", "1h"], ["0s", "2h", "1d"]),
        ] {
            let pattern = regex::Regex::new(key.pattern()).expect("a pattern");
            for text in good {
                assert!(pattern.is_match(text) && Limit::parse(key, text).is_ok(), "{text}");
            }
            for text in bad {
                assert!(!pattern.is_match(text) && Limit::parse(key, text).is_err(), "{text}");
            }
        }
    }
}
