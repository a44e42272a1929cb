//! What the engine and a launcher say to each other, over one socket.
//!
//! The engine sends an [`Order`] and its descriptors, and ends its side. The launcher answers with
//! one [`Report`] and ends. Nothing inside a container ever holds this socket.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::failure::FailureReport;
use crate::launch::Launched;
use crate::spec::ContainerSpec;

/// Larger than any container's description: the kernel takes 2 MiB of arguments and environment.
const ORDER_MAX_BYTES: u64 = 8 << 20;

/// A failure's report is a few hundred bytes.
const REPORT_MAX_BYTES: u64 = 64 << 10;

/// What to launch, and which descriptors come with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub spec: ContainerSpec,
    pub has_stdin: bool,
    pub has_socket: bool,
    pub has_terminal: bool,
}

/// The descriptors that come with an [`Order`].
#[derive(Debug)]
pub struct Descriptors {
    pub stdin: Option<OwnedFd>,
    pub socket: Option<OwnedFd>,
    /// Where init sends the other side of the container's terminal.
    pub terminal: Option<OwnedFd>,
    pub exit: OwnedFd,
}

/// The launcher's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    Launched(Launched),
    Failed(FailureReport),
}

/// Sends the order and ends this side of the socket.
pub fn send_order(socket: &UnixStream, order: &Order, with: &Descriptors) -> io::Result<()> {
    let text = serde_json::to_vec(order)?;
    let optional = [&with.stdin, &with.socket, &with.terminal].into_iter().flatten();
    let descriptors = optional.chain([&with.exit]).map(AsFd::as_fd).collect::<Vec<_>>();

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = sendmsg(socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut stream = socket;
    stream.write_all(&text[sent..])?;
    socket.shutdown(Shutdown::Write)
}

/// Receives what [`send_order`] sent.
pub fn receive_order(socket: &UnixStream) -> io::Result<(Order, Descriptors)> {
    let mut first = vec![0; 64 << 10];
    let (received, descriptors) = receive(socket, &mut first)?;
    first.truncate(received);
    socket.take(ORDER_MAX_BYTES).read_to_end(&mut first)?;
    let order: Order = serde_json::from_slice(&first)?;
    let descriptors = sort(&order, descriptors)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "descriptors are missing"))?;
    Ok((order, descriptors))
}

/// Sends `descriptor` to the engine, from inside a container that runs nothing of a tenant's yet.
pub fn send_descriptor(socket: impl AsFd, descriptor: impl AsFd) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    // A stream carries descriptors with a byte at least.
    Ok(sendmsg(socket, &[IoSlice::new(b"d")], &mut ancillary, SendFlags::NOSIGNAL).map(drop)?)
}

/// Receives what [`send_descriptor`] sent.
pub fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let (_, descriptors) = receive(socket, &mut [0])?;
    let missing = || io::Error::new(io::ErrorKind::UnexpectedEof, "no descriptor came");
    descriptors.into_iter().next().ok_or_else(missing)
}

/// Answers the engine.
pub fn send_report(mut socket: &UnixStream, report: &Report) -> io::Result<()> {
    socket.write_all(&serde_json::to_vec(report)?)
}

/// The launcher's answer, when all who could give one have ended; `None` where they gave none.
pub fn receive_report(socket: &UnixStream) -> io::Result<Option<Report>> {
    let mut text = Vec::new();
    socket.take(REPORT_MAX_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Receives the first bytes that come, and how many they are, with their descriptors.
fn receive(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((received.bytes, descriptors.flatten().collect()))
}

/// Gives each descriptor its name, in the order in which [`send_order`] lists them.
fn sort(order: &Order, descriptors: Vec<OwnedFd>) -> Option<Descriptors> {
    let mut descriptors = descriptors.into_iter();
    let stdin = if order.has_stdin { Some(descriptors.next()?) } else { None };
    let socket = if order.has_socket { Some(descriptors.next()?) } else { None };
    let terminal = if order.has_terminal { Some(descriptors.next()?) } else { None };
    Some(Descriptors { stdin, socket, terminal, exit: descriptors.next()? })
}
