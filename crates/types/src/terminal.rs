//! Terminals.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::whole;

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    #[serde(deserialize_with = "whole::number")]
    #[schemars(range(max = 65_535))]
    pub columns: u16,
    #[serde(deserialize_with = "whole::number")]
    #[schemars(range(max = 65_535))]
    pub rows: u16,
}

impl Default for TerminalSize {
    /// What a program takes where nobody says.
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}
