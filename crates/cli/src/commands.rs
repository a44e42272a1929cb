//! One file a command: arguments → API call → print.

pub mod apps;
pub mod backup;
pub mod builds;
pub mod completions;
pub mod config;
pub mod deploy;
pub mod destroy;
pub mod doctor;
pub mod domains;
pub mod down;
pub mod events;
pub mod limits;
pub mod logs;
pub mod prove;
pub mod python;
pub mod releases;
pub mod restart;
pub mod rollback;
pub mod run;
pub mod scale;
pub mod shell;
pub mod start;
pub mod status;
pub mod stop;
pub mod token;
