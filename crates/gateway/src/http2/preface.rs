//! Which version of HTTP a client begins to speak.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What a client has shown of its version.
#[derive(Debug)]
pub struct Spoken {
    pub is_http2: bool,
    /// What has been read for that. Never a whole head of HTTP/1.
    pub early: Vec<u8>,
}

/// What a connection of HTTP/2 begins with. Source: RFC 9113, section 3.4.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits until the bytes of `stream` tell its version; reads none that HTTP/1 would need to see first.
pub async fn sniff(stream: &mut TcpStream) -> io::Result<Spoken> {
    let mut early = Vec::new();
    while early.len() < PREFACE.len() {
        let rest = &PREFACE[early.len()..];
        let mut seen = [0; PREFACE.len()];
        let count = stream.peek(&mut seen[..rest.len()]).await?;
        if count == 0 || seen[..count] != rest[..count] {
            return Ok(Spoken { is_http2: false, early });
        }
        stream.read_exact(&mut seen[..count]).await?;
        early.extend_from_slice(&seen[..count]);
    }
    Ok(Spoken { is_http2: true, early })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
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
        (is_http2, early, rest)
    }

    #[tokio::test]
    async fn a_preface_is_known_however_it_comes() {
        let (is_http2, early, rest) = spoken(&[&PREFACE[..], b"more"]).await;
        assert!(is_http2 && early == PREFACE && rest == b"more");
        let (is_http2, early, _) = spoken(&[&PREFACE[..1], &PREFACE[1..9], &PREFACE[9..]]).await;
        assert!(is_http2 && early == PREFACE);
    }

    #[tokio::test]
    async fn anything_else_is_left_to_be_read() {
        for text in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/1.1\r\n\r\n", "POST", "", "PRI * HT"] {
            let (is_http2, early, rest) = spoken(&[text.as_bytes()]).await;
            assert!(!is_http2, "{text}");
            assert_eq!([early, rest].concat(), text.as_bytes());
        }
    }
}
