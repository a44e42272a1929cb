//! What was seen, and how it's shown.

use serde::{Deserialize, Serialize};

use crate::screen::{self, Screen, Style};

/// What `ace prove` has found; the document that `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub probes: Vec<Probe>,
    /// The first is without an attack.
    pub neighbour: Vec<Figures>,
}

/// One attempt on one wall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The kind of wall, and what was tried: `files: make device files`.
    pub name: String,
    pub expected: String,
    /// Of a probe that was skipped, what it lacks.
    pub observed: String,
    /// Whether the wall held; true of what was skipped.
    pub ok: bool,
    /// This machine has nothing to try it on.
    pub skipped: bool,
}

/// How the neighbour fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// `none`, what the attacker took, or `all`.
    pub attack: String,
    pub requests: usize,
    /// Those that were not answered with 200.
    pub failures: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// The p99 by that of the measurement without an attack which was taken just before.
    pub times_alone: f64,
    /// What that may be.
    pub bound: f64,
    /// The longest that the engine's API took to answer; it may take a second.
    pub api_slowest_ms: f64,
    pub ok: bool,
}

impl Probe {
    /// One that looks from outside.
    pub fn outside(name: &str, expected: &str, ok: bool, observed: impl Into<String>) -> Self {
        Self {
            name: format!("outside: {name}"),
            expected: expected.to_owned(),
            observed: observed.into(),
            ok,
            skipped: false,
        }
    }
}

impl Report {
    /// How many walls did not hold, the neighbour's service included.
    pub fn failures(&self) -> usize {
        let probes = self.probes.iter().filter(|probe| !probe.ok).count();
        probes + self.neighbour.iter().filter(|figures| !figures.ok).count()
    }

    /// Tables of both, and a sum.
    pub fn text(&self, screen: &Screen) -> String {
        let rows = self.probes.iter().map(|probe| row(probe, screen)).collect();
        let mut text = screen.table(&["", "PROBE", "EXPECTED", "OBSERVED"], rows);
        if !self.neighbour.is_empty() {
            let headings = [
                "",
                "NEIGHBOUR UNDER",
                "REQUESTS",
                "FAILED",
                "P50",
                "P99",
                "TIMES ALONE",
                "API SLOWEST",
            ];
            let rows = self.neighbour.iter().map(|it| figures_row(it, screen)).collect();
            text += &format!("\n\n{}", screen.table(&headings, rows));
        }
        let skipped = self.probes.iter().filter(|probe| probe.skipped).count();
        let tried = self.probes.len() - skipped;
        text + &format!("\n\n{tried} probes, {skipped} skipped; {}", self.verdict())
    }

    /// `2 of the walls did not hold`.
    pub fn verdict(&self) -> String {
        match self.failures() {
            0 => "every wall held".to_owned(),
            1 => "one of the walls did not hold".to_owned(),
            failures => format!("{failures} of the walls did not hold"),
        }
    }
}

fn row(probe: &Probe, screen: &Screen) -> Vec<String> {
    let verdict = match probe {
        Probe { skipped: true, .. } => screen.paint(Style::Warning, "skipped"),
        Probe { ok: true, .. } => screen.paint(Style::Good, "held"),
        Probe { ok: false, .. } => screen.paint(Style::Error, "FAILED"),
    };
    let cells = [&probe.name, &probe.expected, &probe.observed];
    std::iter::once(verdict).chain(cells.map(|cell| screen::escape(cell))).collect()
}

fn figures_row(figures: &Figures, screen: &Screen) -> Vec<String> {
    let Figures { attack, requests, failures, p50_ms, p99_ms, times_alone, bound, .. } = figures;
    let verdict = match figures.ok {
        true => screen.paint(Style::Good, "held"),
        false => screen.paint(Style::Error, "FAILED"),
    };
    vec![
        verdict,
        attack.clone(),
        requests.to_string(),
        failures.to_string(),
        format!("{p50_ms:.1} ms"),
        format!("{p99_ms:.1} ms"),
        format!("{times_alone:.2} of {bound:.1}"),
        format!("{:.0} ms", figures.api_slowest_ms),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_that_failed_is_counted_and_stands_out() {
        let probe = |ok, skipped| Probe {
            name: "files: x".to_owned(),
            expected: "refused".to_owned(),
            observed: "\x1b let through".to_owned(),
            ok,
            skipped,
        };
        let report = Report {
            probes: vec![probe(true, false), probe(false, false), probe(true, true)],
            neighbour: Vec::new(),
        };
        assert_eq!(report.failures(), 1);
        assert_eq!(
            report.text(&Screen::plain()),
            "         PROBE     EXPECTED  OBSERVED\n\
             held     files: x  refused   \\x1b let through\n\
             FAILED   files: x  refused   \\x1b let through\n\
             skipped  files: x  refused   \\x1b let through\n\n\
             2 probes, 1 skipped; one of the walls did not hold"
        );
    }
}
