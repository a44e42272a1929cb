//! From a tenant's archive to what a release is made of.
//!
//! A build is a row of commands, each in a container of its own that sees the build's scratch
//! folder, the network where it needs it, and nothing of anybody else's:
//!
//! ```text
//! archive ─▶ unpack ─▶ find the entry ─▶ resolve ─▶ install ─▶ describe ─▶ collect ─▶ compile, compress ─▶ hand over
//!            (code)                      (a lock)   (unless there) (a project) static files                  to root
//! ```
//!
//! Root on the host starts containers, renames and chowns what they left, and parses no more of it
//! than three bounded texts: the report of our own [`unpack_main`], the entry that our own program
//! found, and the installer's lock.
//!
//! [`ContainerBuilder`] is the way in. What it offers others is [`ace_api::Builder`].

#![forbid(unsafe_code)]

mod builder;
mod caches;
mod callable;
mod compress;
mod container;
mod describe;
mod entry;
mod environment;
mod fetch;
mod files;
mod hash;
mod index;
mod kept;
mod left_behind;
mod log;
mod mistagged;
mod old_setuptools;
mod pip;
mod python;
mod remedy;
mod servers;
mod serving;
mod setuptools;
mod site;
mod statics;
mod tools;
mod unpack;
mod uv;
mod wheels;

pub use builder::{BuilderConfig, COMPRESS_COMMAND, ContainerBuilder, UNPACK_COMMAND};
pub use compress::compress_main;
pub use container::{FREE_LEAST, Network, NetworkLease};
pub use python::{Places, Roots};
pub use unpack::unpack_main;
