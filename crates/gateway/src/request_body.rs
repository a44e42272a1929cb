//! A request's body on its way to an app.
//!
//! A body is received before the app hears of its request: an app server's threads are few, and one
//! that waits for a slow client does nothing else. The body's last part is kept in memory, what is
//! before that in a file without a name. Where there is no more room for such files, the rest of a
//! body goes to the app as it comes; but uwsgi's protocol announces a body's length before the
//! body, so one in chunks, whose length is known at its end, is then refused.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use ace_upstream::Sender;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use crate::bandwidth::{Allowance, AppBandwidth, SMALL_BYTES, Way};
use crate::body_pace::BodyPace;
use crate::client_body::ClientBody;
use crate::client_end::ClientError;
use crate::failure::Failure;
use crate::spool::{AppSpool, Room};

/// A body, received as a whole or as far as there was room for it.
pub struct RequestBody {
    /// What did not fit in memory, at its beginning.
    file: Option<Arc<File>>,
    /// How much of the file that is.
    file_bytes: u64,
    /// What comes after that.
    tail: BytesMut,
    /// What the client is still to send after that.
    rest: Option<Arrival>,
    length: u64,
    room: Room,
    is_paced: bool,
}

/// A body as it comes from a client.
struct Arrival {
    body: ClientBody,
    pace: BodyPace,
    /// `None` for what is small.
    allowance: Option<Allowance>,
    received: u64,
    /// For the client; not for the app's bandwidth.
    waited: Duration,
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
    pub pace: BodyPace,
}

/// How much of a body stays in memory, and how much is moved at once.
const MEMORY_BYTES: usize = 64 * 1024;

impl RequestBody {
    /// Receives what the client sends; `None` where it sends nothing.
    ///
    /// Errors: [`Failure::BodyTooLarge`], before a byte is read where the length was announced;
    /// [`Failure::SpoolFull`], for a body in chunks; and whatever may happen on receiving it.
    pub async fn accept(
        incoming: ClientBody,
        bounds: BodyBounds,
        spool: &AppSpool,
        bandwidth: &Arc<AppBandwidth>,
    ) -> Result<Option<Self>, Failure> {
        let announced = incoming.size_hint().exact();
        if announced == Some(0) {
            return Ok(None);
        }
        bounds.check(announced.unwrap_or(0))?;
        let is_small = announced.is_some_and(|length| length <= SMALL_BYTES)
            && !bandwidth.is_in_arrears(Way::Received);
        let allowance = (!is_small).then(|| Allowance::with_credit(bandwidth, Way::Received));
        let arrival = Arrival::new(incoming, bounds.pace, allowance);
        let mut body = receive(spool, arrival, bounds).await?;
        match announced {
            Some(length) => body.length = length,
            None if body.rest.is_some() => return Err(Failure::SpoolFull),
            None => {}
        }
        Ok(Some(body))
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether its bandwidth has been asked for.
    pub fn is_paced(&self) -> bool {
        self.is_paced
    }

    /// Sends all of the body to the app, waiting no longer than `timeout` for the app to take it.
    pub async fn pump(self, to: Sender, timeout: Duration) -> Result<(), PumpError> {
        let mut at = 0;
        while let Some(file) = self.file.clone().filter(|_| at < self.file_bytes) {
            let wanted = (self.file_bytes - at).min(MEMORY_BYTES as u64);
            let read = spawn_blocking(move || read_part(&file, at, wanted)).await;
            let read = read.map_err(io::Error::from).flatten();
            let bytes = read.map_err(|error| PumpError::Client(Failure::Spool(error)))?;
            send(&to, &bytes, timeout).await?;
            at += wanted;
        }
        send(&to, &self.tail, timeout).await?;
        let Some(mut rest) = self.rest else { return Ok(()) };
        while let Some(bytes) = rest.next().await.map_err(PumpError::Client)? {
            send(&to, &bytes, timeout).await?;
        }
        Ok(())
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

/// Receives a body, as far as there is room.
async fn receive(
    spool: &AppSpool,
    mut arrival: Arrival,
    bounds: BodyBounds,
) -> Result<RequestBody, Failure> {
    let mut body = RequestBody {
        file: None,
        file_bytes: 0,
        tail: BytesMut::new(),
        rest: None,
        length: 0,
        room: spool.room(),
        is_paced: arrival.allowance.is_some(),
    };
    while let Some(bytes) = arrival.next().await? {
        body.length += bytes.len() as u64;
        bounds.check(body.length)?;
        let has_room =
            body.tail.len() + bytes.len() <= MEMORY_BYTES || write_out(spool, &mut body).await;
        body.tail.extend_from_slice(&bytes);
        if !has_room {
            body.rest = Some(arrival);
            break;
        }
    }
    Ok(body)
}

/// Moves what is in memory to the file; returns whether there was room for it.
async fn write_out(spool: &AppSpool, body: &mut RequestBody) -> bool {
    if !body.room.take(body.tail.len() as u64) {
        return false;
    }
    let bytes = body.tail.split().freeze();
    let (file, spool, at) = (body.file.clone(), spool.clone(), body.file_bytes);
    let part = bytes.clone();
    let write = move || {
        let file = file.map_or_else(|| spool.file().map(Arc::new), Ok)?;
        file.write_all_at(&part, at)?;
        io::Result::Ok(file)
    };
    match spawn_blocking(write).await.map_err(io::Error::from).flatten() {
        Ok(file) => {
            body.file = Some(file);
            body.file_bytes += bytes.len() as u64;
            true
        }
        Err(error) => {
            tracing::warn!(%error, "could not keep a request's body on disk");
            body.tail = bytes.into();
            false
        }
    }
}

impl Arrival {
    fn new(body: ClientBody, pace: BodyPace, allowance: Option<Allowance>) -> Self {
        Self { body, pace, allowance, received: 0, waited: Duration::ZERO }
    }

    /// The next bytes, once they may pass; `None` at the end. Trailers are dropped.
    ///
    /// Errors: [`Failure::BodyLate`], [`Failure::Body`].
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if let Some(allowance) = &mut self.allowance {
            allowance.ready().await;
        }
        loop {
            match self.next_frame().await? {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Body(error)),
                Some(Ok(frame)) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.received += bytes.len() as u64;
                    if let Some(allowance) = &mut self.allowance {
                        allowance.spend(bytes.len() as u64);
                    }
                    return Ok(Some(bytes));
                }
            }
        }
    }

    /// Waits for the client alone, and counts that.
    async fn next_frame(&mut self) -> Result<Option<Result<Frame<Bytes>, ClientError>>, Failure> {
        let (began, within) = (Instant::now(), self.pace.left(self.received, self.waited));
        let frame = timeout(within, self.body.frame()).await;
        self.waited += began.elapsed();
        frame.map_err(|_| Failure::BodyLate { waited: self.waited, received: self.received })
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

fn read_part(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(MEMORY_BYTES)];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
