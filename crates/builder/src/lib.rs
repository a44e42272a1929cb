#![forbid(unsafe_code)]
mod statics;
mod unpack;
pub use unpack::unpack_main;
