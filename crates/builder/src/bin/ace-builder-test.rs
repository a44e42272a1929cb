//! The hidden commands that builds run, for this crate's tests; `ace` has them among its own.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(ace_builder::COMPRESS_COMMAND) => ace_builder::compress_main(),
        Some(ace_builder::UNPACK_COMMAND) => ace_builder::unpack_main(),
        Some(ace_sandbox::launch::COMMAND) => ace_sandbox::launch::main(),
        _ => ExitCode::from(2),
    }
}
