//! Speaks to an app server on its Unix socket: a request in uwsgi's protocol or HTTP/1.1, a response
//! in HTTP.
//!
//! Used by the gateway for requests and by the node for probes. It knows nothing of either, and
//! nothing of routes, limits or retries: it encodes, sends, receives and checks. Whatever comes
//! back from an app is taken as hostile: bounded, and strict about how a head is delimited.
//!
//! [`uwsgi`], [`http1`], [`percent`], [`chunked`] and [`response`] are pure; [`connection`] does the I/O, [`pool`]
//! keeps connections between exchanges; [`probe()`] is one whole exchange.

#![forbid(unsafe_code)]

mod address;
pub mod chunked;
pub mod connection;
pub mod http1;
pub mod percent;
mod poller;
pub mod pool;
pub mod probe;
pub mod response;
mod spare;
mod stream;
pub mod uwsgi;

pub use address::address_text;
pub use connection::{Connection, ReceiveError, ResponseBody, Sender, Tunnel};
pub use http1::{Then, encode_http};
pub use percent::{encode_path, encode_query_value, encode_url, percent_decode};
pub use pool::Pool;
pub use probe::{ProbeOutcome, probe};
pub use response::{BodyLength, HEAD_BYTES_MAX, HeadError, ResponseHead};
pub use uwsgi::{Added, EncodeError, Request, encode_uwsgi};
