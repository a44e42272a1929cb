//! The operator's configuration: a TOML file, read once, whose mistakes are told all together.
//!
//! It says what the flags of `ace server` say, and besides what tenants may ask for and which limits
//! this machine has to enforce. Flags and variables go before it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use ace_sandbox::volume::Store;
use ace_types::ceilings::{Ceilings, TenantCeilings};
use ace_types::{Bytes, Limit, LimitKey, Limits};
use anyhow::{Context, Result, bail};
use toml::{Table, Value};

/// Where it's looked for unless told otherwise; it need not be there.
pub const DEFAULT: &str = "/etc/ace/ace.toml";
/// More than any such file has.
const SIZE_MAX: u64 = 1 << 20;

const TOP: [&str; 12] = [
    "data",
    "http",
    "api",
    "domain",
    "trusted_proxies",
    "proxy_protocol",
    "access_log",
    "index_url",
    "require",
    "app",
    "tenant",
    "volumes",
];
const OF_TENANT: [&str; 4] = ["apps", "memory", "cpu", "volume"];

const OF_VOLUMES: [&str; 1] = ["store"];

/// What `require` can name: limits and walls that apps can run without, as `ace doctor` calls them.
const REQUIREMENTS: [&str; 5] = ["io", "bandwidth", "swap", "volumes", "writable-code"];

/// What an operator has written down.
#[derive(Debug, Default, PartialEq)]
pub struct ConfigFile {
    /// Settings by the names of their flags, `-` written `_`, as texts that the flag would take.
    pub settings: Vec<(String, String)>,
    /// Checks of `ace doctor` that this machine must pass, beyond those without which no app runs.
    pub require: Vec<String>,
    pub ceilings: Changes,
    /// What new volumes are made as.
    pub volumes: Store,
}

/// What differs from the ceilings that suit the machine.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    limits: Vec<Limit>,
    volume: Option<Bytes>,
    instances: Option<u16>,
    tenant: TenantCeilings,
}

impl ConfigFile {
    /// Reads `file`, or else the usual one where there is one.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let path = file.unwrap_or(Path::new(DEFAULT));
        let text = match fs::metadata(path) {
            Ok(metadata) if metadata.len() > SIZE_MAX => {
                bail!("{} is larger than any configuration", path.display())
            }
            Ok(_) => fs::read_to_string(path),
            Err(error) => Err(error),
        };
        match text {
            Err(error) if file.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            text => {
                let text = text.with_context(|| format!("could not read {}", path.display()))?;
                Self::parse(&text).with_context(|| format!("{} is not right", path.display()))
            }
        }
    }

    pub fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse()?;
        let mut reader = Reader::default();
        let mut config = Self::default();
        for (key, value) in &table {
            match key.as_str() {
                "require" => config.require = reader.requirements(value),
                "app" => reader.app(value, &mut config.ceilings),
                "tenant" => reader.tenant(value, &mut config.ceilings.tenant),
                "volumes" => reader.volumes(value, &mut config.volumes),
                known if TOP.contains(&known) => {
                    config.settings.extend(reader.setting(known, value));
                }
                unknown => reader.unknown("", unknown, &TOP),
            }
        }
        reader.finish(config)
    }

    /// What is written for the setting `name`, if anything.
    pub fn setting<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>> {
        let found = self.settings.iter().find(|(key, _)| key == name);
        let parse = |(_, text): &(String, String)| {
            text.parse().map_err(|error| anyhow::anyhow!("{name}: {error}"))
        };
        found.map(parse).transpose()
    }
}

impl Changes {
    /// `ceilings` with what is written in the file.
    pub fn over(&self, mut ceilings: Ceilings) -> Ceilings {
        ceilings.app.limits.extend(self.limits.iter().map(|limit| (limit.key(), *limit)));
        ceilings.app.volume = self.volume.or(ceilings.app.volume);
        ceilings.app.instances = self.instances.or(ceilings.app.instances);
        let TenantCeilings { apps, memory, cpu_millicores, volume } = self.tenant;
        let tenant = &mut ceilings.tenant;
        tenant.apps = apps.or(tenant.apps);
        tenant.memory = memory.or(tenant.memory);
        tenant.cpu_millicores = cpu_millicores.or(tenant.cpu_millicores);
        tenant.volume = volume.or(tenant.volume);
        ceilings
    }
}

/// The ceilings that suit this machine, with its disk as it is at `data`.
pub fn ceilings_of_machine(data: &Path) -> Result<Ceilings> {
    let disk = rustix::fs::statvfs(data).context("could not ask for the size of the disk")?;
    let cores = std::thread::available_parallelism().context("could not count the cores")?;
    Ok(Ceilings::for_machine(
        machine_memory()?,
        u32::try_from(cores.get()).unwrap_or(u32::MAX),
        Bytes(disk.f_blocks.saturating_mul(disk.f_frsize)),
    ))
}

/// The memory of this machine.
pub fn machine_memory() -> Result<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").context("could not read /proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().strip_suffix(" kB")?.trim().parse().ok());
    Ok(Bytes::kib(kib.context("/proc/meminfo does not tell the memory")?))
}

/// Reads values, and keeps what was wrong with them.
#[derive(Default)]
struct Reader {
    mistakes: Vec<String>,
}

impl Reader {
    fn finish(self, config: ConfigFile) -> Result<ConfigFile> {
        if self.mistakes.is_empty() {
            return Ok(config);
        }
        let mut all = String::new();
        for mistake in &self.mistakes {
            // Writing to a string can't fail.
            let _ = write!(all, "\n  {mistake}");
        }
        bail!("{all}")
    }

    fn unknown(&mut self, section: &str, key: &str, known: &[&str]) {
        self.mistakes
            .push(format!("{section}{key}: there is no such key; there are {}", known.join(", ")));
    }

    /// One value, or several with commas between them, as its flag takes it.
    fn setting(&mut self, key: &str, value: &Value) -> Option<(String, String)> {
        let text = match value {
            Value::Array(values) => {
                let texts: Option<Vec<String>> = values.iter().map(text_of).collect();
                texts.map(|texts| texts.join(","))
            }
            value => text_of(value),
        };
        if text.is_none() {
            self.mistakes.push(format!("{key}: it can be a text, or a list of them"));
        }
        Some((key.to_owned(), text?))
    }

    fn requirements(&mut self, value: &Value) -> Vec<String> {
        let names = value.as_array().map(|all| all.iter().map(text_of).collect::<Option<Vec<_>>>());
        let Some(Some(names)) = names else {
            self.mistakes.push("require: write a list, as in [\"io\", \"bandwidth\"]".to_owned());
            return Vec::new();
        };
        for name in names.iter().filter(|name| !REQUIREMENTS.contains(&name.as_str())) {
            let known = REQUIREMENTS.join(", ");
            self.mistakes.push(format!("require: {name:?} is none of {known}"));
        }
        names
    }

    fn app(&mut self, value: &Value, ceilings: &mut Changes) {
        let mut known: Vec<&str> = LimitKey::ALL.map(LimitKey::name).into();
        known.extend(["volume", "instances"]);
        for (key, text) in self.section("app", value) {
            match key.as_str() {
                "volume" => ceilings.volume = self.parsed("app.volume", &text),
                "instances" => ceilings.instances = self.parsed("app.instances", &text),
                name => match name.parse() {
                    Ok(key) => ceilings.limits.extend(self.limit(key, &text)),
                    Err(_) => self.unknown("app.", name, &known),
                },
            }
        }
    }

    fn limit(&mut self, key: LimitKey, text: &str) -> Option<Limit> {
        let usual = Limit::of(&Limits::for_app(), key);
        match Limit::parse(key, text) {
            Ok(limit) if usual.is_above(limit) => {
                let name = key.name();
                self.mistakes.push(format!(
                    "app.{name}: {text} is less than an app has by default, which is {usual}"
                ));
                None
            }
            Ok(limit) => Some(limit),
            Err(error) => {
                self.mistakes.push(format!("app.{error}"));
                None
            }
        }
    }

    fn tenant(&mut self, value: &Value, ceilings: &mut TenantCeilings) {
        for (key, text) in self.section("tenant", value) {
            match key.as_str() {
                "apps" => ceilings.apps = self.parsed("tenant.apps", &text),
                "memory" => ceilings.memory = self.parsed("tenant.memory", &text),
                "volume" => ceilings.volume = self.parsed("tenant.volume", &text),
                "cpu" => ceilings.cpu_millicores = self.cores("tenant.cpu", &text),
                unknown => self.unknown("tenant.", unknown, &OF_TENANT),
            }
        }
    }

    fn volumes(&mut self, value: &Value, store: &mut Store) {
        for (key, text) in self.section("volumes", value) {
            match key.as_str() {
                "store" => *store = self.parsed("volumes.store", &text).unwrap_or_default(),
                unknown => self.unknown("volumes.", unknown, &OF_VOLUMES),
            }
        }
    }

    fn section(&mut self, name: &str, value: &Value) -> Vec<(String, String)> {
        let Some(table) = value.as_table() else {
            self.mistakes.push(format!("{name}: it is a section, [{name}]"));
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (key, value) in table {
            match text_of(value) {
                Some(text) => texts.push((key.clone(), text)),
                None => self.mistakes.push(format!("{name}.{key}: it can be a text or a number")),
            }
        }
        texts
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(&mut self, name: &str, text: &str) -> Option<T> {
        text.parse().map_err(|error| self.mistakes.push(format!("{name}: {error}"))).ok()
    }

    /// As `cpu` of an app, for which there may be many more.
    fn cores(&mut self, name: &str, text: &str) -> Option<u64> {
        let cores: f64 = self.parsed(name, text)?;
        if !(0.05..=1e6).contains(&cores) {
            self.mistakes.push(format!("{name}: {text} is no number of cores"));
            return None;
        }
        Some((cores * 1e3).round() as u64)
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Some(value.to_string()),
        _ => None,
    }
}

/// `setting`, which a flag or variable gave, or else what the file says.
pub fn or_from_file<T: FromStr<Err: std::fmt::Display>>(
    setting: Option<T>,
    file: &ConfigFile,
    name: &str,
) -> Result<Option<T>> {
    match setting {
        Some(given) => Ok(Some(given)),
        None => file.setting(name),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_those_of_the_machine_but_for_what_is_written() {
        let text = "require = ['io']\n[app]\nmemory = '8G'\ncpu = 1.5\nvolume = '1G'\n\
                    [tenant]\napps = 5\ncpu = 64\n[volumes]\nstore = 'quota'\n";
        let config = ConfigFile::parse(text).unwrap();
        assert_eq!(config.require, ["io"]);
        assert_eq!(config.volumes, Store::Quota);
        let machine = Ceilings::for_machine(Bytes::gib(4), 8, Bytes::gib(40));
        let ceilings = config.ceilings.over(machine.clone());
        assert_eq!(ceilings.app.limits[&LimitKey::Memory], Limit::Memory(Bytes::gib(8)));
        assert_eq!(ceilings.app.limits[&LimitKey::Cpu], Limit::Cpu(1500));
        assert_eq!(ceilings.app.limits[&LimitKey::Log], machine.app.limits[&LimitKey::Log]);
        assert_eq!(ceilings.app.volume, Some(Bytes::gib(1)));
        assert_eq!((ceilings.tenant.apps, ceilings.tenant.cpu_millicores), (Some(5), Some(64_000)));
        assert_eq!(ceilings.tenant.volume, machine.tenant.volume);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = "colour = 1\nhttp = {a = 1}\nrequire = ['luck']\n\
                    [app]\nmemory = '1G'\npids = 'many'\ntmp = '1M'\nmemroy = '1G'\n[tenant]\nio = '1M'\n\
                    [volumes]\nstore = 'zfs'\nkind = 1\n";
        let told = ConfigFile::parse(text).unwrap_err().to_string();
        let beginnings = [
            "colour: there is no such key",
            "http: it can be a text",
            "require: \"luck\" is none of io",
            "app.pids: \"many\" is not a whole number",
            "app.tmp: 1M is less than an app has by default, which is 64M",
            "app.memroy: there is no such key",
            "tenant.io: there is no such key",
            "volumes.kind: there is no such key",
            "volumes.store: write \"image\" or \"quota\"",
        ];
        for beginning in beginnings {
            assert!(told.lines().any(|line| line.trim().starts_with(beginning)), "{told}");
        }
        assert_eq!(told.trim().lines().count(), beginnings.len());
    }

    #[test]
    fn only_the_usual_file_may_be_missing() {
        assert!(ConfigFile::read(Some(Path::new("/nowhere/ace.toml"))).is_err());
    }
}
