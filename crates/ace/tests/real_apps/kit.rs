//! An engine with one whole application on it.

use std::fs;
use std::path::{Path, PathBuf};

use ace_testkit::{Answer, Engine};
use anyhow::{Context, Result, ensure};

/// A deployed application.
pub struct RealApp {
    engine: Engine,
    name: String,
}

/// Deploys the folder `name` and puts it to use: `fill` makes it keep something, and `check` looks whether
/// it is there. That outlives the engine; a restart, a further deploy and the way back to the first release
/// begin afresh, as the apps keep it in `/tmp`.
pub fn put_to_use(
    name: &str,
    fill: impl Fn(&RealApp) -> Result<()>,
    check: impl Fn(&RealApp) -> Result<()>,
) -> Result<()> {
    let Some(mut app) = RealApp::deploy(name)? else { return Ok(()) };
    fill(&app)?;
    app.outlive_the_engine(&check)?;
    app.go_through_changes(|app| {
        fill(app)?;
        check(app)
    })
}

/// The same for an app with a volume: what it was filled with once stays through all changes.
pub fn put_to_use_for_good(
    name: &str,
    fill: impl Fn(&RealApp) -> Result<()>,
    check: impl Fn(&RealApp) -> Result<()>,
) -> Result<()> {
    let Some(mut app) = RealApp::deploy(name)? else { return Ok(()) };
    fill(&app)?;
    app.outlive_the_engine(&check)?;
    app.go_through_changes(check)
}

impl RealApp {
    /// `None`, and a word about it, where this machine has no such Python.
    pub fn deploy(name: &str) -> Result<Option<Self>> {
        let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
        if !has_python(&engine, &folder(name))? {
            return Ok(None);
        }
        engine.deploy(&folder(name), name)?.ok()?;
        Ok(Some(Self { engine, name: name.to_owned() }))
    }

    /// Checks it before and after the engine's sudden end.
    fn outlive_the_engine(&mut self, check: impl Fn(&Self) -> Result<()>) -> Result<()> {
        check(self)?;
        self.engine.kill()?;
        self.engine.start_server()?;
        check(self).context("after the engine's end")
    }

    /// Restarts it, deploys it again and rolls that back, with a `check` after each.
    fn go_through_changes(&self, check: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let (name, folder) = (self.name.as_str(), folder(&self.name));
        let folder = folder.to_str().context("the folder's path is no text")?;
        for change in
            [vec!["restart", name], vec!["deploy", folder, "--app", name], vec!["rollback", name]]
        {
            self.engine.ace(&change)?.ok()?;
            check(self).with_context(|| format!("after {}", change[0]))?;
        }
        Ok(())
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, &[], "")
    }

    /// Where it is served, as its users write it.
    pub fn host(&self) -> String {
        format!("{}.localhost", self.name)
    }

    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<Answer> {
        self.engine.request(&self.name, method, path, headers, body.as_ref())
    }

    /// Sends a form as a browser would. `cookies` as in [`cookies`].
    pub fn submit(&self, path: &str, cookies: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let pairs = fields.iter().map(|(name, value)| format!("{name}={}", escape(value)));
        let body = pairs.collect::<Vec<_>>().join("&");
        let kind = ("Content-Type", "application/x-www-form-urlencoded");
        self.send("POST", path, &[kind, ("Cookie", cookies)], body)
    }
}

/// The cookies that `answer` sets, as a browser sends them back.
pub fn cookies(answer: &Answer) -> String {
    let set = answer.headers.iter().filter(|(name, _)| name == "set-cookie");
    let pairs = set.filter_map(|(_, value)| value.split(';').next());
    pairs.collect::<Vec<_>>().join("; ")
}

/// The value of the hidden field `name` in a page's form.
pub fn hidden(page: &Answer, name: &str) -> Result<String> {
    let text = page.text();
    let field = text.split('<').find(|tag| {
        tag.starts_with("input") && tag.contains(&format!("name=\"{name}\""))
            || tag.starts_with("input") && tag.contains(&format!("name='{name}'"))
    });
    let field = field.with_context(|| format!("no field {name}: {text}"))?;
    let value = field.split("value=").nth(1).context("the field has no value")?;
    let quote = value.chars().next().context("the field's value is empty")?;
    Ok(value.split(quote).nth(1).context("the field's value has no end")?.to_owned())
}

/// Fails unless `answer` has this status, and shows it.
pub fn expect_status(answer: &Answer, status: u16) -> Result<()> {
    ensure!(answer.status == status, "{} is not {status}: {}", answer.status, answer.text());
    Ok(())
}

/// Fails unless `answer` is fine and shows all of `parts`.
pub fn shows(answer: &Answer, parts: &[&str]) -> Result<()> {
    ensure!(answer.status < 300, "status {}: {}", answer.status, answer.text());
    let text = answer.text();
    for part in parts {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    Ok(())
}

/// The folder of the application `name`.
fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_apps")).join(name)
}

/// Whether this machine has the Python that the app in `folder` asks for, such as `python: "2.7"`.
fn has_python(engine: &Engine, folder: &Path) -> Result<bool> {
    let app_yaml = fs::read_to_string(folder.join("app.yaml"))?;
    let wanted = app_yaml.lines().find_map(|line| line.strip_prefix("python: "));
    let wanted = format!("{}.", wanted.context("app.yaml names no Python")?.trim_matches('"'));
    let listed = engine.ace(&["python", "list", "--json"])?.ok()?.json()?;
    let listed = listed.as_array().context("no list")?;
    let mut versions = listed.iter().filter_map(|python| python["name"].as_str());
    let has = versions.any(|version| version.starts_with(&wanted));
    if !has {
        eprintln!("skipped: this machine has no Python {wanted}*");
    }
    Ok(has)
}

/// `text` as a form's value.
fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    });
    escaped.collect()
}
