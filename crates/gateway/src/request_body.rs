//! A request's body on its way to an app.
//!
//! uwsgi's protocol announces a body's length before the body. One whose length the client
//! announced goes to the app as it comes; one that comes in chunks is received whole first: its
//! last part in memory, what is before that in a file without a name.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ace_upstream::Sender;
use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::failure::Failure;

/// A body that nobody has read from yet.
pub enum RequestBody {
    Stream { incoming: Incoming, length: u64 },
    Spooled(Spooled),
}

/// A body that came in chunks, received whole.
pub struct Spooled {
    /// What did not fit in memory, at its beginning.
    file: Option<File>,
    /// What comes after that.
    tail: BytesMut,
    length: u64,
    _room: Room,
}

/// Where spooled bodies go, and how much room all of them may take on disk.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    bytes_max: u64,
    used: Arc<AtomicU64>,
}

/// Why a body did not reach the app as a whole.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    #[error("the client did not send it")]
    Client(#[source] Failure),
    #[error("the app did not take it")]
    App(#[source] io::Error),
    #[error("the app took nothing for {waited:?}")]
    AppStalled { waited: Duration },
}

/// What a body may be and take.
#[derive(Debug, Clone, Copy)]
pub struct BodyBounds {
    /// `None` is no bound.
    pub bytes_max: Option<u64>,
    /// The longest wait for the next bytes.
    pub pace: Duration,
}

/// How much of a spooled body stays in memory, and how much is moved at once.
const MEMORY_BYTES: usize = 64 * 1024;

impl RequestBody {
    /// Takes what the client sends; `None` where it sends nothing.
    ///
    /// Errors: [`Failure::BodyTooLarge`], before a byte is read where the length was announced;
    /// and for a body in chunks, whatever may happen on receiving it.
    pub async fn accept(
        incoming: Incoming,
        bounds: BodyBounds,
        spool: &Spool,
    ) -> Result<Option<Self>, Failure> {
        match incoming.size_hint().exact() {
            Some(0) => Ok(None),
            Some(length) => {
                bounds.check(length)?;
                Ok(Some(Self::Stream { incoming, length }))
            }
            None => Ok(Some(Self::Spooled(spool.receive(incoming, bounds).await?))),
        }
    }

    pub fn length(&self) -> u64 {
        match self {
            Self::Stream { length, .. } => *length,
            Self::Spooled(spooled) => spooled.length,
        }
    }

    /// Sends all of the body to the app, waiting no longer than `pace` for the client and `timeout`
    /// for the app to take it.
    pub async fn pump(
        self,
        to: Sender,
        pace: Duration,
        timeout: Duration,
    ) -> Result<(), PumpError> {
        match self {
            Self::Stream { mut incoming, .. } => {
                while let Some(bytes) =
                    next(&mut incoming, pace).await.map_err(PumpError::Client)?
                {
                    send(&to, &bytes, timeout).await?;
                }
                Ok(())
            }
            Self::Spooled(spooled) => spooled.pump(to, timeout).await,
        }
    }
}

impl BodyBounds {
    fn check(&self, length: u64) -> Result<(), Failure> {
        match self.bytes_max {
            Some(max_bytes) if length > max_bytes => Err(Failure::BodyTooLarge { max_bytes }),
            _ => Ok(()),
        }
    }
}

impl Spool {
    pub fn new(folder: PathBuf, bytes_max: u64) -> Self {
        Self { folder, bytes_max, used: Arc::default() }
    }

    /// Receives a whole body whose length the client has not announced.
    async fn receive(
        &self,
        mut incoming: Incoming,
        bounds: BodyBounds,
    ) -> Result<Spooled, Failure> {
        let room = Room { used: Arc::clone(&self.used), taken: 0 };
        let mut spooled = Spooled { file: None, tail: BytesMut::new(), length: 0, _room: room };
        while let Some(bytes) = next(&mut incoming, bounds.pace).await? {
            spooled.length += bytes.len() as u64;
            bounds.check(spooled.length)?;
            if spooled.tail.len() + bytes.len() > MEMORY_BYTES {
                self.write_out(&mut spooled).await?;
            }
            spooled.tail.extend_from_slice(&bytes);
        }
        if let Some(file) = &mut spooled.file {
            file.rewind().map_err(Failure::Spool)?;
        }
        Ok(spooled)
    }

    /// Moves what is in memory to the file.
    async fn write_out(&self, spooled: &mut Spooled) -> Result<(), Failure> {
        let bytes = spooled.tail.split().freeze();
        if !spooled._room.take(bytes.len() as u64, self.bytes_max) {
            return Err(Failure::SpoolFull);
        }
        let (file, folder) = (spooled.file.take(), self.folder.clone());
        let write = move || {
            let mut file = file.map_or_else(|| tempfile::tempfile_in(folder), Ok)?;
            file.write_all(&bytes)?;
            io::Result::Ok(file)
        };
        let written = spawn_blocking(write).await.map_err(io::Error::from).flatten();
        spooled.file = Some(written.map_err(Failure::Spool)?);
        Ok(())
    }
}

impl Spooled {
    async fn pump(mut self, to: Sender, timeout: Duration) -> Result<(), PumpError> {
        while let Some(file) = self.file.take() {
            let read = spawn_blocking(move || read_some(file)).await.map_err(io::Error::from);
            let read = read.flatten().map_err(|error| PumpError::Client(Failure::Spool(error)))?;
            if let Some((file, bytes)) = read {
                send(&to, &bytes, timeout).await?;
                self.file = Some(file);
            }
        }
        send(&to, &self.tail, timeout).await
    }
}

/// What a spooled body takes of the spool's room on disk.
struct Room {
    used: Arc<AtomicU64>,
    taken: u64,
}

impl Room {
    /// Takes `bytes` more, if that leaves no more than `bytes_max` taken by all.
    fn take(&mut self, bytes: u64, bytes_max: u64) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        self.taken += bytes;
        before + bytes <= bytes_max
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// The next bytes of a body; `None` at its end. Trailers are dropped.
async fn next(incoming: &mut Incoming, pace: Duration) -> Result<Option<Bytes>, Failure> {
    loop {
        let frame = timeout(pace, incoming.frame()).await;
        match frame.map_err(|_| Failure::BodyLate { waited: pace })? {
            None => return Ok(None),
            Some(Err(error)) => return Err(Failure::Body(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(_trailers) => {}
            },
        }
    }
}

async fn send(to: &Sender, bytes: &[u8], limit: Duration) -> Result<(), PumpError> {
    for part in bytes.chunks(MEMORY_BYTES) {
        match timeout(limit, to.send(part)).await {
            Ok(sent) => sent.map_err(PumpError::App)?,
            Err(_) => return Err(PumpError::AppStalled { waited: limit }),
        }
    }
    Ok(())
}

/// Reads on; `None` at the file's end.
fn read_some(mut file: File) -> io::Result<Option<(File, Vec<u8>)>> {
    let mut bytes = vec![0; MEMORY_BYTES];
    let count = file.read(&mut bytes)?;
    bytes.truncate(count);
    Ok((count > 0).then_some((file, bytes)))
}
