//! What the program says without an engine: help, usage, and that no engine is there.

#![forbid(unsafe_code)]

use std::process::{Command, Output};

fn ace(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ace"))
        .args(arguments)
        .env_remove("ACE_SERVER")
        .env("COLUMNS", "100")
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_teaches() {
    insta::assert_snapshot!(text(&ace(&["--help"]).stdout));
}

#[test]
fn every_command_has_help_with_examples() {
    let commands = "deploy apps status logs releases rollback restart stop start config limits scale \
                    destroy token doctor down builds events domains run shell python completions";
    for command in commands.split_whitespace() {
        let output = ace(&[command, "--help"]);
        assert!(output.status.success(), "{command}");
        assert!(text(&output.stdout).contains(&format!("  ace {command}")), "{command}");
    }
}

#[test]
fn hidden_commands_are_not_in_the_help() {
    let help = text(&ace(&["--help"]).stdout);
    assert!(!help.contains("__"), "{help}");
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [&["frobnicate"][..], &["status"], &["apps", "--server", "https://x:1"]] {
        assert_eq!(ace(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_missing_engine_is_named_with_the_way_out() {
    let output = ace(&["--server", "unix:/nonexistent/ace.sock", "apps"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: no engine listens at /nonexistent/ace.sock"), "{error}");
    assert!(error.contains("`ace server`"), "{error}");
}

#[test]
fn an_error_is_a_document_where_json_was_asked_for() {
    let output = ace(&["--server", "/nonexistent/ace.sock", "--json", "apps"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(document["error"]["code"], "not_running");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_bare_ace_shows_its_help_whatever_is_set() {
    let bare = Command::new(env!("CARGO_BIN_EXE_ace")).env("ACE_SERVER", "/x").output();
    let bare = bare.expect("the program starts");
    assert_eq!(bare.status.code(), Some(2));
    assert!(text(&bare.stdout).contains("Commands:"), "{bare:?}");
}

#[test]
fn quiet_is_quiet_and_says_errors_all_the_same() {
    let output = ace(&["--server", "/nonexistent/ace.sock", "apps", "-q"]);
    assert!(text(&output.stderr).starts_with("error: no engine listens"));
}
