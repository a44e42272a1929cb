//! Hands the sockets at which apps are served from an engine that ends to the next one.
//!
//! ```text
//! engine that ends ──▶ holder ──▶ next engine
//! ```
//!
//! Connections that are made in between wait in the sockets' backlog and are refused by nobody. The holder is this
//! program started again. It's there from the moment an engine is asked to end until the next one has
//! fetched the sockets, and no longer than [`HELD_FOR`] after the engine's end. It serves nobody, and
//! reads nothing but its engine's sockets.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The hidden command that a holder is.
pub const HOLDER: &str = "__holder";

/// How long sockets are held without an engine.
const HELD_FOR: Duration = Duration::from_secs(30);

/// How long either side waits for a word of the other's.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The most descriptors that one message carries: the kernel's SCM_MAX_FD.
const DESCRIPTORS_MAX: usize = 253;

/// Sockets are held, for as long as this value lives and [`HELD_FOR`] after that.
#[derive(Debug)]
pub struct Held {
    _engine: UnixStream,
}

/// Has `listeners` held for the next engine with the data folder `folder`.
pub fn hold(folder: &Path, listeners: &[TcpListener]) -> io::Result<Held> {
    let (ours, theirs) = UnixStream::pair()?;
    Command::new("/proc/self/exe")
        .arg(HOLDER)
        .arg(socket_in(folder))
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .env_clear()
        // What ends the engine from its terminal is not meant for it.
        .process_group(0)
        .spawn()?;
    send(&ours, &listeners.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    ours.set_read_timeout(Some(ANSWER_WITHIN))?;
    (&ours).read_exact(&mut [0])?;
    Ok(Held { _engine: ours })
}

/// Fetches the sockets that an earlier engine with the data folder `folder` has left, as far as they
/// listen at `address`. None are left unless that engine ended a moment ago.
pub fn fetch(folder: &Path, address: SocketAddr) -> Vec<TcpListener> {
    let fits = |listener: &TcpListener| {
        listener.local_addr().is_ok_and(|held| {
            held.ip() == address.ip() && [0, held.port()].contains(&address.port())
        })
    };
    match fetch_all(&socket_in(folder)) {
        Ok(listeners) => listeners.into_iter().filter(fits).collect(),
        Err(error) => {
            let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
            if !nobody.contains(&error.kind()) {
                tracing::warn!(%error, "could not fetch the sockets of the engine before");
            }
            Vec::new()
        }
    }
}

fn fetch_all(path: &Path) -> io::Result<Vec<TcpListener>> {
    let holder = UnixStream::connect(path)?;
    holder.set_read_timeout(Some(ANSWER_WITHIN))?;
    Ok(receive(&holder)?.into_iter().map(TcpListener::from).collect())
}

/// The hidden command: its argument is where it is to be found, its standard input a socket to the
/// engine.
pub fn holder_main() -> ExitCode {
    let path = std::env::args_os().nth(2).map(PathBuf::from);
    let engine = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    match path.ok_or(io::ErrorKind::InvalidInput.into()).and_then(|path| serve(&path, engine?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Holds what `engine` sends until it has been fetched at `path`.
fn serve(path: &Path, mut engine: UnixStream) -> io::Result<()> {
    let descriptors = receive(&engine)?;
    remove(path)?; // One that was killed has left it.
    let listener = UnixListener::bind(path)?;
    engine.write_all(b"r")?;
    // The next engine can't begin before this one has ended.
    engine.read_to_end(&mut Vec::new())?;
    let fetched = hand_out(&listener, &descriptors);
    remove(path)?;
    fetched
}

/// Sends `descriptors` to the first who connects, if anybody does.
fn hand_out(listener: &UnixListener, descriptors: &[OwnedFd]) -> io::Result<()> {
    let mut waiting = [PollFd::new(listener, PollFlags::IN)];
    let limit = Timespec::try_from(HELD_FOR).map_err(io::Error::other)?;
    if poll(&mut waiting, Some(&limit))? == 0 {
        return Ok(());
    }
    let (next, _) = listener.accept()?;
    send(&next, &descriptors.iter().map(AsFd::as_fd).collect::<Vec<_>>())
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("listeners.sock")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn send(socket: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("there are more sockets than one message carries"));
    }
    // A stream carries descriptors with a byte at least.
    sendmsg(socket, &[IoSlice::new(b"s")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let (mut byte, flags) = ([0], RecvFlags::CMSG_CLOEXEC);
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
    let messages = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(messages.flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::thread;

    use super::*;

    /// A socket that a holder holds in `folder`, its address, and what keeps the holder waiting.
    fn held(folder: &Path) -> io::Result<(SocketAddr, Held, thread::JoinHandle<io::Result<()>>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (engine, theirs) = UnixStream::pair()?;
        let path = socket_in(folder);
        let holder = thread::spawn(move || serve(&path, theirs));
        send(&engine, &[listener.as_fd()])?;
        (&engine).read_exact(&mut [0])?;
        Ok((listener.local_addr()?, Held { _engine: engine }, holder))
    }

    #[test]
    fn a_connection_that_is_made_in_between_is_accepted_after_that() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (address, engine, holder) = held(folder.path())?;
        drop(engine);
        let client = TcpStream::connect(address)?;
        let fetched = fetch(folder.path(), address);
        assert_eq!(fetched[0].accept()?.1, client.local_addr()?);
        holder.join().unwrap()?;
        assert!(!socket_in(folder.path()).exists());
        assert!(fetch(folder.path(), address).is_empty());
        Ok(())
    }

    #[test]
    fn sockets_at_another_address_are_let_go() -> io::Result<()> {
        for (wanted, fits) in
            [("127.0.0.1:0", true), ("127.0.0.2:0", false), ("127.0.0.1:1", false)]
        {
            let folder = tempfile::tempdir()?;
            let (_, engine, holder) = held(folder.path())?;
            drop(engine);
            assert_eq!(fetch(folder.path(), wanted.parse().unwrap()).len(), usize::from(fits));
            holder.join().unwrap()?;
        }
        Ok(())
    }
}
