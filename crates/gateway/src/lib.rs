//! Takes HTTP, serves static files, forwards everything else to instances.
//!
//! The life of a request reads in this order: `server` accepts the connection, `client` keeps its
//! deadlines, `framing` refuses what is ambiguous (`http2` does both for that version), hyper or h2 parses, `origin` says who asks, `service` finds the route (`target`,
//! `routes`) and follows its rules (`rewrite`), and then either `statics` answers from a release's files or `forward` takes the request
//! to an instance; a WebSocket goes on in `tunnel`. `failure` is what the client sees otherwise.
//!
//! The gateway serves from its last known routes: it calls nobody on a request's path.

#![forbid(unsafe_code)]

mod accept_encoding;
mod access;
mod access_line;
mod access_log;
mod answer_buffer;
mod app_head;
mod bandwidth;
mod body;
mod body_pace;
mod chunk_line;
mod client;
mod client_body;
mod client_end;
mod conditional;
mod connections;
mod failure;
mod file_cache;
mod file_parts;
mod files;
mod forward;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod headers;
mod http2;
mod interim;
mod meter;
mod origin;
mod places;
mod proxy_protocol;
mod request_body;
mod rewrite;
mod routes;
mod sending;
mod server;
mod service;
mod spool;
mod statics;
mod stopwatch;
mod target;
mod tunnel;

pub use access_log::AccessLogConfig;
pub use server::{GatewayConfig, GatewayServer, StartError};
