//! Asks an app one thing, to learn whether it answers.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use ace_types::{Protocol, error_chain};
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use crate::connection::Connection;
use crate::http1::{Then, encode_http};
use crate::uwsgi::{Request, encode_uwsgi};

/// How much is kept of an answer's body.
pub const BEGINNING_MAX: usize = 1024;

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// A whole response, its body to the end.
    /// `beginning` is at most [`BEGINNING_MAX`] bytes of the body.
    Answered { status: StatusCode, beginning: Vec<u8> },
    /// `why` is for the operator's log and `ace status`.
    NoAnswer { why: String },
}

/// Sends `GET path` for `host` to the app server that speaks `protocol` on `socket`, and receives the
/// whole answer.
///
/// `path` begins with `/` and may have a query. Takes `deadline` at most, in all.
pub async fn probe(
    socket: &Path,
    protocol: Protocol,
    host: &str,
    path: &str,
    deadline: Duration,
) -> ProbeOutcome {
    match tokio::time::timeout(deadline, exchange(socket, protocol, host, path)).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => ProbeOutcome::NoAnswer { why: error_chain(error.as_ref()) },
        Err(_) => {
            let seconds = deadline.as_secs_f64();
            ProbeOutcome::NoAnswer { why: format!("no whole answer within {seconds:.1} s") }
        }
    }
}

async fn exchange(
    socket: &Path,
    protocol: Protocol,
    host: &str,
    path: &str,
) -> Result<ProbeOutcome, Box<dyn Error + Send + Sync>> {
    let request = Request {
        method: &Method::GET,
        path_and_query: path,
        request_uri: path,
        version: Version::HTTP_11,
        headers: &probe_headers(host)?,
        added: &[],
        scheme: "http",
        server_name: host,
        server_port: 80,
        remote_address: "127.0.0.1",
        remote_port: 0,
        content_length: None,
    };
    let head = match protocol {
        Protocol::Uwsgi => encode_uwsgi(&request)?,
        Protocol::Http => encode_http(&request, Then::Close),
    };
    let mut connection = Connection::connect(socket, protocol)?;
    connection.sender().send(&head).await?;
    let head = connection.receive_head().await?;
    let mut beginning = Vec::new();
    let mut body = connection.into_body(&head, &Method::GET);
    while let Some(chunk) = body.chunk().await {
        let chunk = chunk?;
        let room = BEGINNING_MAX - beginning.len();
        beginning.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(ProbeOutcome::Answered { status: head.status, beginning })
}

fn probe_headers(host: &str) -> Result<HeaderMap, http::header::InvalidHeaderValue> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_str(host)?);
    headers.insert(USER_AGENT, HeaderValue::from_static("ace-probe"));
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// Probes a server that reads a packet, says `answer`, and closes if `closes`.
    async fn probe_server(answer: &'static [u8], closes: bool) -> ProbeOutcome {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut packet = [0; 4096];
            assert!(stream.read(&mut packet).await.unwrap() > 4);
            stream.write_all(answer).await.unwrap();
            if !closes {
                std::future::pending::<()>().await;
            }
        });
        probe(&path, Protocol::Uwsgi, "shop.localhost", "/", Duration::from_millis(200)).await
    }

    #[tokio::test]
    async fn a_whole_answer_of_any_status_is_an_answer() {
        let outcome = probe_server(b"HTTP/1.1 500 Oops\r\n\r\nsorry", true).await;
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let beginning = b"sorry".to_vec();
        assert_eq!(outcome, ProbeOutcome::Answered { status, beginning });
    }

    #[tokio::test]
    async fn an_answer_that_does_not_end_is_none() {
        let outcome = probe_server(b"HTTP/1.1 200 OK\r\n\r\nhel", false).await;
        assert_eq!(outcome, ProbeOutcome::NoAnswer { why: "no whole answer within 0.2 s".into() });
    }

    #[tokio::test]
    async fn the_reason_names_its_cause() {
        let ProbeOutcome::NoAnswer { why } = probe_server(b"nonsense\r\n\r\n", true).await else {
            panic!("nonsense is no answer");
        };
        assert!(why.starts_with("the app's answer can't be passed on: the response is not HTTP"));
    }

    #[tokio::test]
    async fn nobody_listening_is_no_answer() {
        let outcome =
            probe(Path::new("/nonexistent"), Protocol::Http, "a", "/", Duration::from_secs(1))
                .await;
        assert!(matches!(outcome, ProbeOutcome::NoAnswer { .. }));
    }
}
