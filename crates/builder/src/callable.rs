//! Tells ASGI from WSGI by an entry's source, before anything of it runs.
//!
//! What can't be told so is taken for WSGI; if that is wrong, the server says so at its start. See
//! `docs/adr/0006-asgi-by-source.md`.

use ace_api::BuildError;
use ace_types::Server;
use ace_types::app_yaml::Entry;

use crate::container::{Bench, Command};
use crate::environment::see_python;
use crate::python::Python;
use crate::servers;
use crate::site::Site;
use crate::unpack::CODE;

const SCRIPT: &str = include_str!("callable.py");
const ANSWER_MAX: usize = 64;

/// The server that suits the app's callable.
pub async fn suitable_server(
    entry: &Entry,
    python: &Python,
    bench: &Bench,
    site: &Site,
) -> Result<Server, BuildError> {
    if servers::check(Server::Uvicorn, python).is_err()
        || !is_asgi(entry, python, bench, site).await?
    {
        return Ok(Server::Uwsgi);
    }
    bench.log().say(format!("{entry} is an ASGI application: uvicorn serves it")).await;
    Ok(Server::Uvicorn)
}

async fn is_asgi(
    entry: &Entry,
    python: &Python,
    bench: &Bench,
    site: &Site,
) -> Result<bool, BuildError> {
    let program = python.interpreter.program.display().to_string();
    let entry = entry.to_string();
    let mut command = see_python(Command::new([&program, "-I", "-c", SCRIPT, &entry]), python)
        .read_only(&site.code(), CODE)
        .in_folder(CODE);
    command.keep_stdout = Some(ANSWER_MAX);
    let ended = bench.run(command).await?;
    Ok(ended.success && ended.stdout.trim_ascii() == b"asgi")
}
