//! `GET /metrics`: what the engine counts, as Prometheus reads it (the OpenMetrics text format).
//!
//! [`families`] has a line a metric: its name, its labels, what it means, where it comes from. They
//! stand in docs/METRICS.md, which a test holds against what is exported. Labels come from small sets
//! of words of ours, and from apps' names, of which [`APPS_MAX`] are told apart.

mod apps;
mod families;
mod process;
mod tally;

use std::fmt;

use ace_api::Traffic;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::engine::Engine;
use crate::state::State;
use apps::AppFigures;
use families::FAMILIES;
use process::ProcessFigures;
pub use tally::{Tally, Totals};

/// What the answer of `GET /metrics` is.
pub const MEDIA_TYPE: &str = "application/openmetrics-text";
/// The same in full.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Apps that have series of their own: the first by name. The others share those of [`OTHER_APPS`].
const APPS_MAX: usize = 500;
/// No app can have this name.
const OTHER_APPS: &str = "_other";

/// All that is told, of one moment.
#[derive(Debug)]
struct Snapshot {
    /// By the value of their label `app`.
    apps: Vec<(String, AppFigures)>,
    apps_known: u64,
    /// How many of them share one label.
    apps_merged: u64,
    traffic: Traffic,
    totals: Totals,
    process: ProcessFigures,
    started_at: Timestamp,
}

/// One metric.
struct Family {
    /// As it is exported; that of a counter ends in `_total`.
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Snapshot) -> Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One value of a metric, and that of each of its labels.
struct Sample {
    labels: Vec<String>,
    value: Value,
}

enum Value {
    Count(u64),
    Amount(f64),
    /// Each bound with how many lie between it and the one before; their sum.
    Histogram(Vec<(f64, u64)>, f64),
}

/// What there is to tell now, in the OpenMetrics text format.
pub fn render(engine: &Engine, state: &State) -> Result<String, fmt::Error> {
    encode(Snapshot::take(engine, state))
}

fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Snapshot {
    fn take(engine: &Engine, state: &State) -> Self {
        let observed = engine.observed();
        let names: Vec<_> = state.apps().map(|app| app.name.clone()).collect();
        let all = names.iter().map(|name| (name.to_string(), AppFigures::of(name, &observed)));
        Self {
            apps: merge(all.collect()),
            apps_known: names.len() as u64,
            apps_merged: names.len().saturating_sub(APPS_MAX) as u64,
            traffic: observed.traffic,
            totals: engine.tally.totals(),
            process: ProcessFigures::read(),
            started_at: engine.started_at,
        }
    }
}

/// `apps`, with all beyond [`APPS_MAX`] as one.
fn merge(mut apps: Vec<(String, AppFigures)>) -> Vec<(String, AppFigures)> {
    let rest = apps.split_off(apps.len().min(APPS_MAX));
    let merged = rest.into_iter().map(|(_, figures)| figures).reduce(AppFigures::with);
    apps.extend(merged.map(|figures| (OTHER_APPS.to_owned(), figures)));
    apps
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in FAMILIES {
            // The format's own suffix.
            let name = family.name.strip_suffix("_total").unwrap_or(family.name);
            let help = family.help.trim_end_matches('.');
            let mut metric = encoder.encode_descriptor(name, help, None, family.kind.into())?;
            for sample in (family.samples)(self) {
                let labels: Vec<_> = family.labels.iter().copied().zip(sample.labels).collect();
                match labels.is_empty() {
                    true => sample.value.encode(&mut metric, family.kind)?,
                    false => {
                        sample.value.encode(&mut metric.encode_family(&labels)?, family.kind)?
                    }
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, metric: &mut MetricEncoder<'_>, kind: Kind) -> fmt::Result {
        match (self, kind) {
            (Self::Count(count), Kind::Counter) => {
                metric.encode_counter::<NoLabelSet, _, u64>(count, None)
            }
            (Self::Amount(amount), Kind::Counter) => {
                metric.encode_counter::<NoLabelSet, _, f64>(amount, None)
            }
            (Self::Count(count), Kind::Gauge) => metric.encode_gauge(count),
            (Self::Amount(amount), Kind::Gauge) => metric.encode_gauge(amount),
            (Self::Histogram(buckets, sum), _) => {
                let count = buckets.iter().map(|(_, count)| count).sum();
                metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
            }
            (Self::Count(_) | Self::Amount(_), Kind::Histogram) => Err(fmt::Error),
        }
    }
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Gauge => Self::Gauge,
            Kind::Histogram => Self::Histogram,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/METRICS.md");

    /// One of everything, so that every metric has a sample.
    fn snapshot(apps: usize) -> Snapshot {
        let named = (0..apps).map(|n| (format!("app{n:04}"), AppFigures::example()));
        let tally = Tally::default();
        tally.example();
        Snapshot {
            apps: merge(named.collect()),
            apps_known: apps as u64,
            apps_merged: apps.saturating_sub(APPS_MAX) as u64,
            traffic: Traffic::default(),
            totals: tally.totals(),
            process: ProcessFigures::read(),
            started_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// `name` → (kind, labels), of the document's tables: `| name | kind | labels | meaning |`.
    fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
        let cells = |line: &str| -> Vec<String> {
            line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
        };
        let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
        let row = |line: &str| {
            let cells = cells(line);
            let labels = cells[2].split(", ").filter(|label| !label.is_empty());
            (cells[0].clone(), (cells[1].clone(), labels.map(str::to_owned).collect()))
        };
        rows.map(row).collect()
    }

    #[test]
    fn the_document_has_every_metric_and_no_other() {
        let exported = FAMILIES.iter().map(|family| {
            let kind = format!("{:?}", family.kind).to_lowercase();
            let labels = family.labels.iter().map(|label| (*label).to_owned()).collect();
            (family.name.to_owned(), (kind, labels))
        });
        assert_eq!(exported.collect::<BTreeMap<_, _>>(), documented());
    }

    #[test]
    fn every_metric_is_told_and_the_format_is_kept() {
        let parsed = openmetrics::parse(&encode(snapshot(3)).unwrap());
        for family in FAMILIES {
            let name = family.name.strip_suffix("_total").unwrap_or(family.name);
            assert!(parsed[name] > 0, "{name} has no sample");
        }
    }

    #[test]
    fn a_name_can_break_no_line() {
        let mut snapshot = snapshot(1);
        snapshot.apps[0].0 = "a\"} 1\nx{b=\"\\".to_owned();
        openmetrics::parse(&encode(snapshot).unwrap());
    }

    #[test]
    fn beyond_a_bound_apps_share_their_series() {
        let snapshot = snapshot(APPS_MAX + 3);
        assert_eq!((snapshot.apps.len(), snapshot.apps_merged), (APPS_MAX + 1, 3));
        let (name, merged) = snapshot.apps.last().unwrap();
        let one = AppFigures::example();
        assert_eq!(name, OTHER_APPS);
        assert_eq!(merged.usage.cpu_usec, one.usage.cpu_usec * 3);
        assert_eq!(merged.traffic.durations.count, one.traffic.durations.count * 3);
    }

    /// A strict reader of what we write of the OpenMetrics text format.
    mod openmetrics {
        use std::collections::{BTreeMap, BTreeSet};

        /// Parses `text` and returns how many samples each family has.
        ///
        /// Panics where a line is malformed, a family comes twice or without its head, a sample comes
        /// twice or has a name that its family doesn't, or a histogram's buckets don't add up.
        pub fn parse(text: &str) -> BTreeMap<String, usize> {
            let body = text.strip_suffix("# EOF\n").expect("it ends with EOF");
            let (mut families, mut seen) = (BTreeMap::new(), BTreeSet::new());
            let (mut family, mut kind) = (String::new(), String::new());
            let mut bucket = None;
            for line in body.lines() {
                if let Some(help) = line.strip_prefix("# HELP ") {
                    family = help.split_once(' ').expect("a text").0.to_owned();
                    assert!(families.insert(family.clone(), 0).is_none(), "{family} twice");
                    continue;
                }
                if let Some(of) = line.strip_prefix("# TYPE ") {
                    let (name, of) = of.split_once(' ').expect("a type");
                    assert_eq!(name, family);
                    kind = of.to_owned();
                    continue;
                }
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let value: f64 = value.parse().expect("a number");
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let labels = parse_labels(labels.strip_suffix('}').expect("an end of labels"));
                let suffix = name.strip_prefix(family.as_str()).expect("the family's name");
                match (kind.as_str(), suffix) {
                    ("counter", "_total") => assert!(value >= 0.0, "{line}"),
                    ("gauge", "") | ("histogram", "_sum") => {}
                    ("histogram", "_count") => bucket = None,
                    ("histogram", "_bucket") => {
                        let bound: f64 = labels["le"].replace('+', "").parse().expect("a bound");
                        if let Some((last, count)) = bucket {
                            assert!(bound > last && value >= count, "{line}");
                        }
                        bucket = Some((bound, value));
                    }
                    other => panic!("{other:?}: {line}"),
                }
                assert!(seen.insert(series.to_owned()), "{series} twice");
                *families.get_mut(&family).expect("a family") += 1;
            }
            families
        }

        fn parse_labels(mut text: &str) -> BTreeMap<String, String> {
            let mut labels = BTreeMap::new();
            while !text.is_empty() {
                let (name, rest) = text.split_once("=\"").expect("a label");
                assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
                let (value, rest) = unquote(rest);
                assert!(labels.insert(name.to_owned(), value).is_none(), "{name} twice");
                text = rest.strip_prefix(',').unwrap_or(rest);
                assert!(rest.is_empty() || rest.starts_with(','), "{rest}");
            }
            labels
        }

        /// A value up to its quote, and what comes after.
        fn unquote(text: &str) -> (String, &str) {
            let (mut value, mut chars) = (String::new(), text.char_indices());
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => return (value, &text[at + 1..]),
                    '\\' => match chars.next().expect("an escape").1 {
                        'n' => value.push('\n'),
                        c @ ('\\' | '"') => value.push(c),
                        c => panic!("no escape: {c}"),
                    },
                    c => value.push(c),
                }
            }
            panic!("no end: {text}")
        }
    }
}
