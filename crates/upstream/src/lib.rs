//! Speaks to an app server on its Unix socket: a request in uwsgi's protocol, a response in HTTP.
//!
//! Used by the gateway for requests and by the node for probes. It knows nothing of either, and
//! nothing of routes, limits or retries: it encodes, sends, receives and checks. Whatever comes
//! back from an app is taken as hostile: bounded, and strict about how a head is delimited.
//!
//! [`uwsgi`] and [`response`] are pure; [`connection`] does the I/O; [`probe()`] is one whole exchange.

#![forbid(unsafe_code)]

pub mod connection;
pub mod probe;
pub mod response;
pub mod uwsgi;

pub use connection::{Connection, ReceiveError, ResponseBody, Sender};
pub use probe::{ProbeOutcome, probe};
pub use response::{BodyLength, HEAD_BYTES_MAX, HeadError, ResponseHead};
pub use uwsgi::{EncodeError, Request, encode_uwsgi, percent_decode};
