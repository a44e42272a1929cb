//! The contract between programs: one trait a server, and the types that cross between them.
//!
//! `control` decides what should be; `builder`, `node` and `gateway` bring it about. They know each
//! other only by what stands here. Today all of them run in one process and a trait is a call;
//! the types serialize, so that the same trait can be spoken over a wire.

#![forbid(unsafe_code)]

pub mod builder;
pub mod command;
pub mod end_reason;
pub mod error_code;
pub mod event;
pub mod gateway;
pub mod http;
pub mod node;
pub mod run;
pub mod serving;
pub mod traffic;
pub mod usage;

pub use builder::{
    BuildError, BuildRequest, Builder, Built, Interpreter, KnownPython, PythonState, RebuildRequest,
};
pub use command::{
    CommandControl, CommandEnd, CommandError, CommandIo, CommandOutput, CommandSignal, CommandSpec,
};
pub use end_reason::EndReason;
pub use error_code::ErrorCode;
pub use gateway::{Backend, Gateway, InstanceSocket, Route, RouteTable};
pub use node::{InstanceSpec, InstanceState, InstanceStatus, KeptLog, Node, VolumeSpec};
pub use serving::{Program, Runtime, Serving};
pub use traffic::{AppTraffic, InstanceTraffic, Recent, Traffic};
pub use usage::{
    AppUsage, FilesUsage, FlowUsage, InstanceUsage, MemoryKill, NodeUsage, SpaceUsage, WrittenFiles,
};
