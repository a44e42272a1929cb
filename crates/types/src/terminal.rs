//! Terminals.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

impl Default for TerminalSize {
    /// What a program takes where nobody says.
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}
