//! Whole applications of other people, as their authors wrote them, put to the use they are for.
//!
//! Each is a folder beside this file, with no more than a developer would write to deploy it. A Python
//! that this machine lacks is passed over, with a word about it.

#![forbid(unsafe_code)]

mod dav;
mod kit;
mod new;
mod old;
