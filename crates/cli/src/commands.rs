//! One file a command: arguments → API call → print.

pub mod apps;
pub mod deploy;
pub mod destroy;
pub mod doctor;
pub mod down;
pub mod logs;
pub mod python;
pub mod run;
pub mod shell;
pub mod status;
