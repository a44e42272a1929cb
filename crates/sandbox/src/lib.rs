//! Containers: namespaces, cgroups, mounts, seccomp, volumes, network. The only unsafe code.
//!
//! The engine has many threads and must not fork into a container itself. It starts its own program
//! again ([`mod@launch`]), from a sealed memory file, as a *launcher*: one thread, running as root,
//! which reads a [`ContainerSpec`] from an inherited descriptor, makes the namespaces and mounts,
//! forks process 1 and reports it. Process 1 is *init*, in the same program image: it starts the
//! tenant's process with nothing left to lose, and outlives the engine.
//!
//! Every namespace but the user one belongs to the host's user namespace. So nobody inside, not
//! even its root, has a capability over its mounts, network, host name or process ids.

pub mod cgroup;
mod channel;
pub mod claims;
pub mod disk;
mod failure;
pub mod file_locks;
pub mod firewall;
mod id_map;
mod init;
pub mod kernel_log;
pub mod launch;
mod launcher;
pub mod listeners;
mod log;
pub mod memory;
pub mod mounts;
pub mod netlink_queues;
pub mod network;
pub mod passed;
pub mod process;
mod rootfs;
mod seccomp;
pub mod sockets;
pub mod space;
pub mod spec;
pub mod survey;
mod sys;
mod sys_kernel;
mod sys_quota;
mod tool;
pub mod tree;
pub mod volume;
mod written;

pub use launch::{Launched, launch};
pub use log::lines_dropped;
pub use spec::ContainerSpec;
pub use written::{WrittenNote, written};
