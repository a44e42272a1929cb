//! Speaks to an app server on its Unix socket: a request in uwsgi's protocol, a response in HTTP.
//!
//! Used by the gateway for requests and by the node for probes. It knows nothing of either.

#![forbid(unsafe_code)]
