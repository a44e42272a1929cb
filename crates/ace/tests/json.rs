//! The shapes of what `--json` prints: scripts read them, so a change belongs in the changelog.

#![forbid(unsafe_code)]

use ace_testkit::{AppFolder, Engine};
use anyhow::Result;
use serde_json::{Map, Value};

/// What is measured, and may not have been yet.
const MEASURED: [&str; 2] = ["usage", "traffic"];

#[test]
fn documents_keep_their_shapes() -> Result<()> {
    let engine = Engine::start(env!("CARGO_BIN_EXE_ace"))?;
    let shop = AppFolder::saying("hello")?;
    let path = shop.path().display().to_string();
    let mut shapes = Vec::new();
    for (name, arguments) in [
        ("apps without any", &["apps"][..]),
        ("deploy", &["deploy", &path, "--app", "shop"]),
        ("config", &["config", "shop", "COLOUR=red"]),
        ("config, nothing to do", &["config", "shop", "COLOUR=red"]),
        ("config, listed", &["config", "shop"]),
        ("domains", &["domains", "shop", "add", "example.com"]),
        ("domains, listed", &["domains", "shop"]),
        ("limits", &["limits", "shop"]),
        ("scale", &["scale", "shop"]),
        ("apps", &["apps"]),
        ("status", &["status", "shop"]),
        ("releases", &["releases", "shop"]),
        ("rollback", &["rollback", "shop"]),
        ("builds", &["builds", "shop"]),
        ("builds, one", &["builds", "shop", "1"]),
        ("logs", &["logs", "shop", "--lines", "1"]),
        ("logs of a build", &["logs", "shop", "--build", "1"]),
        ("python list", &["python", "list"]),
        ("doctor", &["doctor"]),
        ("completions", &["completions", "bash"]),
        ("an error", &["status", "none"]),
        ("destroy", &["destroy", "shop", "--yes"]),
    ] {
        let output = engine.ace(&[&["--json"], arguments].concat())?;
        assert_eq!(output.stderr, "", "{name}: JSON alone");
        let first = serde_json::Deserializer::from_str(&output.stdout).into_iter().next();
        let document: Value = first.ok_or_else(|| anyhow::anyhow!("{name} printed nothing"))??;
        shapes.push(format!("{name}: {}", shape(&document)));
    }
    insta::assert_snapshot!(shapes.join("\n"));
    Ok(())
}

/// `document` with its keys, and the first entry of each list; without what the keys are set to.
fn shape(document: &Value) -> Value {
    match document {
        Value::Object(fields) => {
            let shown = |(key, value): (&String, &Value)| match MEASURED.contains(&key.as_str()) {
                true => (key.clone(), Value::Null),
                false => (key.clone(), shape(value)),
            };
            Value::Object(fields.iter().map(shown).collect::<Map<_, _>>())
        }
        Value::Array(entries) => Value::Array(entries.first().map(shape).into_iter().collect()),
        _ => Value::Null,
    }
}
