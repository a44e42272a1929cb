//! Folders to deploy.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// An app that evaluates Python which the test sends it; see [`crate::Engine::python`].
const WORKBENCH: &str = r#"
import json


def application(environ, start_response):
    size = int(environ.get("CONTENT_LENGTH") or 0)
    names = {}
    exec(environ["wsgi.input"].read(size).decode(), names)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(names.get("answer")).encode()]
"#;

/// A temporary folder with an app in it.
#[derive(Debug)]
pub struct AppFolder {
    folder: TempDir,
}

impl AppFolder {
    /// A folder without files.
    pub fn empty() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir().context("could not make a folder")? })
    }

    /// A folder with an `index.py` of this text.
    pub fn new(index: &str) -> Result<Self> {
        let app = Self::empty()?;
        app.write("index.py", index)?;
        Ok(app)
    }

    /// An app that answers every request with `text`.
    pub fn saying(text: &str) -> Result<Self> {
        Self::new(&saying(text))
    }

    /// An app that runs the Python in the body of a request.
    pub fn workbench() -> Result<Self> {
        Self::new(WORKBENCH)
    }

    /// Writes a file of the app; its folder is made where it lacks.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The `index.py` of an app that answers every request with `text`.
pub fn saying(text: &str) -> String {
    format!(
        "def application(environ, start_response):\n    \
             start_response('200 OK', [('Content-Type', 'text/plain')])\n    \
             return [{text:?}.encode()]\n"
    )
}
