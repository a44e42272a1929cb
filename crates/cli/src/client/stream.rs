//! A socket whose other end may answer before it has read everything.
//!
//! An engine that refuses a deploy closes the connection while the archive is still being sent. The
//! write that fails for it would end the exchange before the answer, which has already arrived, is
//! read. So once the other end has stopped listening, writes count as done, and reading goes on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module.
#[derive(Debug)]
pub struct PatientStream<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(context, bytes));
        Poll::Ready(written.or_else(|error| forgive(error, bytes.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.0).poll_flush(context));
        Poll::Ready(flushed.or_else(|error| forgive(error, ())))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// `done`, if `error` says no more than that the other end has stopped listening.
fn forgive<T>(error: io::Error, done: T) -> io::Result<T> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(done),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_though_nobody_listens_any_more() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(b"no").await.expect("an open socket");
        drop(theirs);
        let mut ours = PatientStream(ours);
        ours.write_all(&[0; 1 << 20]).await.expect("patience");
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.expect("an answer");
        assert_eq!(answer, "no");
    }
}
