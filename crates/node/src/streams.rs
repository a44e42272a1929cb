//! Carries bytes between a command's pipes, or its terminal, and whoever has started it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ace_api::CommandOutput;
use ace_types::TerminalSize;
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// The most that is carried at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// What a terminal takes for the end of its input, Ctrl-D, unless a program has set it otherwise.
const END_OF_INPUT: &[u8] = b"\x04";

/// Carries what `pipe` has to `output` until the pipe ends. With nobody to take it, it's dropped: a
/// program that is about to end must not wait for a reader that has left.
pub async fn read_pipe(
    mut pipe: pipe::Receiver,
    output: mpsc::Sender<CommandOutput>,
    kind: fn(Vec<u8>) -> CommandOutput,
) {
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let _ = output.send(kind(buffer[..count].to_vec())).await;
    }
}

/// Carries `input` to `pipe` until it ends or the program takes no more; then the rest is dropped.
pub async fn write_pipe(pipe: pipe::Sender, mut input: mpsc::Receiver<Vec<u8>>) {
    let mut pipe = Some(pipe);
    while let Some(piece) = input.recv().await {
        if let Some(open) = &mut pipe
            && open.write_all(&piece).await.is_err()
        {
            pipe = None;
        }
    }
}

/// The engine's side of a container's terminal. Nothing but bytes and a size passes here.
pub struct Console {
    master: AsyncFd<OwnedFd>,
}

impl Console {
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&master, true)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, and an OwnedFd keeps what that asks for"
        )]
        let master = AsyncFd::new(master)?;
        Ok(Self { master })
    }

    /// Tells the programs on it that it has another size.
    pub fn resize(&self, size: TerminalSize) {
        let TerminalSize { columns, rows } = size;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // It fails on a terminal that nobody has any more.
        let _ = tcsetwinsize(self.master.get_ref(), size);
    }

    /// Types `input` in until it ends, or nobody has the terminal any more.
    pub async fn type_in(self: Arc<Self>, mut input: mpsc::Receiver<Vec<u8>>) {
        while let Some(piece) = input.recv().await {
            if self.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = self.write_all(END_OF_INPUT).await;
    }

    /// Carries what is shown to `output` until nobody has the terminal any more.
    pub async fn show(self: Arc<Self>, output: mpsc::Sender<CommandOutput>) {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = self.read(&mut buffer).await {
            let _ = output.send(CommandOutput::Out(buffer[..count].to_vec())).await;
        }
    }

    /// Errors: EIO where nobody has the terminal any more and all has been read.
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.master.readable().await?;
            match ready.try_io(|master| Ok(read(master, &mut *buffer)?)) {
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.master.writable().await?;
            match ready.try_io(|master| Ok(write(master, bytes)?)) {
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Ok(count) => bytes = &bytes[count?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}
