//! Which version of HTTP a client begins to speak.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// What a client has shown of its version.
#[derive(Debug)]
pub struct Spoken {
    pub is_http2: bool,
    /// What has been read for that: of HTTP/2 the preface, of either what has come with it.
    pub early: BytesMut,
}

/// What a connection of HTTP/2 begins with. Source: RFC 9113, section 3.4.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is read at once: most heads.
const PART_BYTES: usize = 2048;

/// Waits until the bytes of `stream` tell its version.
pub async fn sniff(stream: &mut TcpStream) -> io::Result<Spoken> {
    let mut early = BytesMut::new();
    loop {
        let has_ended = !read_more(stream, &mut early).await?;
        let seen = early.len().min(PREFACE.len());
        let is_preface = early[..seen] == PREFACE[..seen];
        if has_ended || !is_preface || seen == PREFACE.len() {
            return Ok(Spoken { is_http2: is_preface && seen == PREFACE.len(), early });
        }
    }
}

/// Reads what there is onto `bytes`. Returns whether that was anything; after that nothing more will come.
///
/// Over the stack: a connection keeps no more than has come.
async fn read_more(stream: &mut TcpStream, bytes: &mut BytesMut) -> io::Result<bool> {
    poll_fn(|cx| {
        let mut scratch = [0; PART_BYTES];
        let mut part = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut part))?;
        bytes.extend_from_slice(part.filled());
        Poll::Ready(Ok(!part.filled().is_empty()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What is found of a client that sends `parts` one after the other, and what is left to read.
    async fn spoken(parts: &[&[u8]]) -> (bool, Vec<u8>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let send = async {
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let (spoken, ()) = tokio::join!(sniff(&mut server), send);
        let Spoken { is_http2, early } = spoken.unwrap();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        (is_http2, early.to_vec(), rest)
    }

    #[tokio::test]
    async fn a_preface_is_known_however_it_comes() {
        let (is_http2, early, rest) = spoken(&[&PREFACE[..], b"more"]).await;
        assert!(is_http2 && early.starts_with(PREFACE));
        assert_eq!([early, rest].concat(), [&PREFACE[..], b"more"].concat());
        let (is_http2, early, _) = spoken(&[&PREFACE[..1], &PREFACE[1..9], &PREFACE[9..]]).await;
        assert!(is_http2 && early == PREFACE);
    }

    #[tokio::test]
    async fn anything_else_is_kept_for_who_reads_it() {
        for text in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/1.1\r\n\r\n", "POST", "", "PRI * HT"] {
            let (is_http2, early, rest) = spoken(&[text.as_bytes()]).await;
            assert!(!is_http2, "{text}");
            assert_eq!([early, rest].concat(), text.as_bytes());
        }
    }
}
