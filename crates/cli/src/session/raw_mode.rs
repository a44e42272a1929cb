//! Our own terminal while another machine's program is on it: nothing typed has a meaning here.

use std::io;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Raw mode of the terminal that is standard input. Dropping it sets the terminal as it was.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// `None` where standard input is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let before = match tcgetattr(io::stdin()) {
            Ok(before) => before,
            Err(_not_a_terminal) => return Ok(None),
        };
        // Made first: whatever fails half way is undone.
        let mode = Self { before };
        mode.apply()?;
        Ok(Some(mode))
    }

    /// Sets it again, after the shell that we were stopped under has set its own.
    pub fn again(&self) {
        // A terminal that is gone says so to whoever reads it.
        let _ = self.apply();
    }

    fn apply(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // As above.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}
