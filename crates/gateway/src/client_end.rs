//! The client's end of one request, whatever version of HTTP it speaks.

use std::sync::Arc;

use http::Version;
use http::request::Parts;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::oneshot;

use crate::client::ClientState;
use crate::client_body::ClientBody;
use crate::http2::StreamTunnel;
use crate::interim::InterimSink;

/// What there is of a client for one request, besides the request's head.
#[derive(Default)]
pub struct ClientEnd {
    pub body: Option<ClientBody>,
    /// Where to leave what comes before the answer.
    pub interim: InterimSink,
    /// What an answer may agree to.
    pub upgrade: Option<Upgrade>,
}

/// What a client's connection goes on as, or its stream of one, once it has been told so.
pub enum Upgrade {
    Connection(OnUpgrade),
    Stream(oneshot::Receiver<StreamTunnel>),
}

/// What went wrong between a client and us.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Http1(hyper::Error),
    #[error(transparent)]
    Http2(h2::Error),
}

impl ClientEnd {
    /// Of the request with the head `parts`, over HTTP/1.
    pub fn over_http1(parts: &mut Parts, body: Incoming, client: &Arc<ClientState>) -> Self {
        let interim = match parts.version {
            Version::HTTP_11 => InterimSink::Connection(Arc::clone(client)),
            _ => InterimSink::Nobody,
        };
        let upgrade = parts.extensions.remove::<OnUpgrade>().map(Upgrade::Connection);
        Self { body: Some(ClientBody::Http1(body)), interim, upgrade }
    }
}
