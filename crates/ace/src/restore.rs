//! `ace restore`: makes an engine's data folder of a backup.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use ace_backup::{Header, Manifest, ROWS};
use ace_control::MissingPython;
use ace_store::SqliteStore;
use anyhow::{Context, Result};
use clap::Args;

use crate::engine::EmptyFolder;
use crate::server::require_root;

/// Make an engine's data folder of a backup
///
/// The folder has to be empty. `ace server` with it runs the apps as before.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ace restore /mnt/ace-monday.tar.gz
  ace restore /mnt/ace-monday.tar.gz --data /srv/ace

All of the backup is checked. If that fails, or is cut short, `ace server` refuses the folder;
`ace restore` may then be run with it again. The engine keeps its id: of it and the one that the
backup was made of, only one can run on a machine.")]
pub struct RestoreArgs {
    /// What `ace backup` has made
    file: PathBuf,

    /// Folder of all that the engine is to keep
    #[arg(long, env = "ACE_DATA", value_name = "DIR", default_value = "/var/lib/ace")]
    data: PathBuf,
}

/// Restores, and says what there is now.
pub async fn run(args: RestoreArgs, json: bool) -> Result<()> {
    require_root()?;
    let backup = File::open(&args.file)
        .with_context(|| format!("could not open {}", args.file.display()))?;
    let folder = EmptyFolder::open(&args.data)?;
    let into = folder.path().to_owned();
    let unpacked = tokio::task::spawn_blocking(move || {
        ace_backup::unpack(BufReader::with_capacity(1 << 20, backup), &into)
    });
    let (header, manifest) =
        unpacked.await?.with_context(|| format!("{} was not restored", args.file.display()))?;
    let missing = take_over_rows(folder.path(), &header).await?;
    folder.finish()?;
    if json {
        println!("{}", document(&args.data, &header, &manifest, &missing));
    } else {
        println!("{}", text(&args.data, &header, &manifest));
        warn_of(&missing);
    }
    Ok(())
}

async fn take_over_rows(data: &Path, header: &Header) -> Result<Vec<MissingPython>> {
    let path = data.join(ROWS);
    let rows = File::open(&path).context("the backup has no rows")?;
    let store = SqliteStore::open(&data.join("ace.db"))
        .context("could not make the store of the engine's state")?;
    let rows = BufReader::new(rows);
    let missing = ace_control::restore_rows(&store, rows, &header.data, data).await?;
    fs::remove_file(&path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    Ok(missing)
}

fn text(data: &Path, header: &Header, manifest: &Manifest) -> String {
    let Manifest { apps, releases, .. } = manifest;
    let data = data.display();
    format!(
        "{data} has {apps} apps, {releases} releases and {} volumes, as they were at {}\n\
         run them: ace server --data {data}",
        manifest.volumes.len(),
        header.made_at,
    )
}

fn document(
    data: &Path,
    header: &Header,
    manifest: &Manifest,
    missing: &[MissingPython],
) -> serde_json::Value {
    let missing = missing.iter().map(|python| {
        serde_json::json!({
            "app": python.app, "version": python.version, "program": python.program,
        })
    });
    serde_json::json!({
        "data": data,
        "made_at": header.made_at,
        "apps": manifest.apps,
        "releases": manifest.releases,
        "volumes": manifest.volumes.len(),
        "missing_pythons": missing.collect::<Vec<_>>(),
    })
}

fn warn_of(missing: &[MissingPython]) {
    for MissingPython { app, version, program } in missing {
        eprintln!(
            "warning: {app} needs Python {version}, which is not at {}; install it, or another \
             of its minor version",
            program.display()
        );
    }
}
