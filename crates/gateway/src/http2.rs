//! HTTP/2 in clear text, from clients that know beforehand that it is spoken here.
//!
//! h2 speaks the protocol. What is ours: to find out which version a client speaks (`preface`), its
//! deadlines (`stream`), who floods us with frames that ask for nothing (`flood`), to take requests
//! (`connection`) and answer them (`answer`, `answer_body`), and to make of a request what the rest of the gateway knows
//! from HTTP/1 (`request`, `body`, `tunnel`). hyper's way to h2 has no place for what comes before an answer.

mod answer;
mod answer_body;
mod body;
mod connection;
mod date;
mod flood;
mod pings;
mod preface;
mod request;
mod stream;
mod tunnel;

pub use body::StreamBody;
pub use connection::serve;
#[cfg(any(test, feature = "fuzzing"))]
pub use flood::Flood;
#[cfg(any(test, feature = "fuzzing"))]
pub use preface::PREFACE;
pub use preface::{Spoken, sniff};
pub use request::{adopt, answer_websocket, is_websocket};
pub use stream::Http2Stream;
pub use tunnel::StreamTunnel;
