//! What a deploy, or anything like it, is doing, on standard error: drawn in place on a terminal, lines elsewhere,
//! nothing in JSON mode.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ace_api::http::{ApiError, DeployPhase};
use indicatif::{ProgressBar, ProgressStyle};

use crate::screen::{self, Screen, Style};
use crate::words;

/// Lines that are remembered, so that none is shown a second time.
const REMEMBERED_LINES: usize = 200;
const REDRAW: Duration = Duration::from_millis(100);
/// The longest silence where nothing is drawn.
pub const SILENCE: Duration = Duration::from_secs(15);

/// The phases of one deploy as they pass.
#[derive(Debug)]
pub struct Progress {
    screen: Screen,
    verbose: bool,
    spinner: Option<ProgressBar>,
    phase: Option<(DeployPhase, Instant)>,
    shown_lines: VecDeque<String>,
    /// When anything was said last.
    said_at: Instant,
}

impl Progress {
    /// Begins with `first`. What the app says is shown only if `verbose`.
    pub fn new(screen: &Screen, first: &'static str, verbose: bool) -> Self {
        let spinner = screen.draws().then(|| {
            let spinner = ProgressBar::new_spinner().with_message(first);
            spinner.set_style(
                // A template of ours can't be wrong at run time; without it the default serves.
                ProgressStyle::with_template("{spinner} {msg} {elapsed}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            spinner.enable_steady_tick(REDRAW);
            spinner
        });
        let (phase, shown_lines, said_at) = (None, VecDeque::new(), Instant::now());
        Self { screen: *screen, verbose, spinner, phase, shown_lines, said_at }
    }

    /// `phase` begins, and the one before it has ended.
    pub fn enter(&mut self, phase: DeployPhase) {
        self.end_phase();
        self.phase = Some((phase, Instant::now()));
        match &self.spinner {
            Some(spinner) => {
                spinner.reset_elapsed();
                spinner.set_message(name(phase));
            }
            None => self.print(name(phase)),
        }
    }

    /// Says that the phase goes on, where nothing else has told so for a while.
    pub fn go_on(&mut self) {
        if let (None, Some((phase, began))) = (&self.spinner, self.phase)
            && self.said_at.elapsed() >= SILENCE
        {
            self.print(&format!("still {}, for {}", name(phase), screen::seconds(began.elapsed())));
        }
    }

    /// A line of the build's log.
    pub fn build_line(&mut self, line: &str) {
        let escaped = screen::escape(line);
        let dim = self.screen.paint_err(Style::Dim, &screen::indent(&escaped));
        self.print(&dim);
        self.remember(escaped);
    }

    /// A line that the app printed while it was starting.
    pub fn app_line(&mut self, line: &str) {
        if !self.verbose {
            return self.go_on();
        }
        let escaped = screen::escape(line);
        self.print(&screen::indent(&escaped));
        self.remember(escaped);
    }

    /// What is worth a look, though all went well.
    pub fn remark(&mut self, note: &str) {
        self.end_phase();
        let word = self.screen.paint_err(Style::Bold, "note:");
        self.print(&format!("{word} {}", screen::escape(note)));
    }

    /// Ends the drawing. Returns the phase that was reached.
    pub fn finish(&mut self) -> Option<DeployPhase> {
        let phase = self.phase.map(|(phase, _)| phase);
        self.end_phase();
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
        phase
    }

    /// `error` with those of its details that a person needs and has not seen. JSON has them all.
    pub fn what_is_left_to_show(&self, error: ApiError) -> ApiError {
        let detail = match error.detail {
            Some(detail) if self.screen.json() => Some(detail),
            Some(detail) if self.was_shown(&detail) => None,
            Some(detail) if self.verbose => Some(detail),
            Some(detail) => Some(words::of_the_app(&detail)),
            None => None,
        };
        ApiError { detail, ..error }
    }

    fn remember(&mut self, escaped: String) {
        if self.shown_lines.len() == REMEMBERED_LINES {
            self.shown_lines.pop_front();
        }
        self.shown_lines.push_back(escaped);
    }

    fn was_shown(&self, detail: &str) -> bool {
        let shown = |line: &str| self.shown_lines.iter().any(|seen| *seen == screen::escape(line));
        detail.lines().all(shown)
    }

    fn end_phase(&mut self) {
        if let Some((phase, began)) = self.phase.take() {
            let line = format!("{} took {}", name(phase), screen::seconds(began.elapsed()));
            self.print(&line);
        }
    }

    fn print(&mut self, line: &str) {
        self.said_at = Instant::now();
        match &self.spinner {
            Some(spinner) => spinner.println(line),
            None => self.screen.note(line),
        }
    }
}

fn name(phase: DeployPhase) -> &'static str {
    match phase {
        DeployPhase::Queued => "waiting for its turn",
        DeployPhase::Building => "building",
        DeployPhase::Preparing => "running predeploy",
        DeployPhase::Starting => "starting",
        DeployPhase::Switching => "switching",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(detail: &str) -> ApiError {
        let detail = Some(detail.to_owned());
        ApiError { detail, ..ApiError::new("start_failed", "it did not start") }
    }

    #[test]
    fn a_traceback_is_shown_once() {
        let mut progress = Progress::new(&Screen::plain(), "sending", true);
        progress.app_line("Traceback");
        progress.app_line("ImportError: \x07x");
        let error = progress.what_is_left_to_show(failed("Traceback\nImportError: \x07x"));
        assert_eq!(error.detail, None);
    }

    #[test]
    fn what_stood_in_the_builds_log_is_not_told_again() {
        let mut progress = Progress::new(&Screen::plain(), "sending", false);
        progress.build_line("no such table");
        assert_eq!(progress.what_is_left_to_show(failed("no such table")).detail, None);
    }

    #[test]
    fn details_that_are_new_are_kept() {
        let mut progress = Progress::new(&Screen::plain(), "sending", true);
        progress.app_line("Traceback");
        let error = progress.what_is_left_to_show(failed("Traceback\nImportError"));
        assert_eq!(error.detail.as_deref(), Some("Traceback\nImportError"));
    }

    #[test]
    fn what_the_app_said_is_told_when_it_failed() {
        let mut progress = Progress::new(&Screen::plain(), "sending", false);
        progress.app_line("Traceback");
        let error = progress.what_is_left_to_show(failed("Traceback\ngoodbye to uWSGI."));
        assert_eq!(error.detail.as_deref(), Some("Traceback"));
    }

    #[test]
    fn the_phase_that_was_reached_is_known_in_the_end() {
        let mut progress = Progress::new(&Screen::plain(), "sending", false);
        progress.enter(DeployPhase::Building);
        progress.enter(DeployPhase::Switching);
        assert_eq!(progress.finish(), Some(DeployPhase::Switching));
    }
}
