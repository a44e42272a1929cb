//! Runs instances on this machine, and finds them again after the engine was gone.
//!
//! [`ContainerNode`] is told what should run and compares it with what does. Each instance belongs
//! to one task ([`instance`]), whose decisions are one pure function ([`life`]). What an instance
//! needs in order to be found again is written to its folder before it is acted on ([`record`]).
//! Commands beside the instances end with the engine ([`command`]).
//!
//! Not here: containers themselves (`sandbox`), who gets requests (`gateway`), what should run
//! (`control`).

#![forbid(unsafe_code)]

pub mod addresses;
mod command;
mod container;
pub mod dns;
mod ending;
mod instance;
mod kernel_memory;
mod life;
mod meter;
mod node;
mod old_logs;
mod record;
mod server;
mod shape;
mod streams;
mod victims;
mod written;

pub use addresses::{AddressLease, AddressPool};
pub use node::{ContainerNode, NodeConfig, NodeError};
