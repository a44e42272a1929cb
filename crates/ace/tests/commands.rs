//! Commands in an app's container: `ace run`, `ace shell`, `predeploy`.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ace_testkit::{AppFolder, Engine, app, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
/// Says that it is there, and stays.
const STAY: &str = "import time; print('up', flush=True); time.sleep(600)";

fn engine() -> Result<Engine> {
    Engine::start(env!("CARGO_BIN_EXE_ace"))
}

/// An engine with the app `shop`, which has a volume.
fn engine_with_shop() -> Result<Engine> {
    let engine = engine()?;
    let shop = AppFolder::workbench()?;
    shop.write("app.yaml", "volume: 32M\nenv: {COLOUR: blue}\nlimits: {memory: 64M}\n")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    Ok(engine)
}

/// Starts `ace ARGUMENTS`, which prints `up` first.
fn start(engine: &Engine, arguments: &[&str]) -> Result<Child> {
    let mut command = engine.command(arguments);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.as_mut().context("no output")?;
    BufReader::with_capacity(1, stdout).read_line(&mut line)?;
    ensure!(line == "up\n", "it printed {line:?}");
    Ok(child)
}

/// What became of a person's steps before a terminal; see `terminal.py`.
fn on_terminal(engine: &Engine, steps: &Value, arguments: &[&str]) -> Result<Value> {
    let ace = engine.command(arguments);
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/terminal.py"))
        .arg(steps.to_string())
        .arg(ace.get_program())
        .args(ace.get_args())
        .env("TERM", "xterm")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())
}

#[test]
fn a_command_is_at_home_as_an_instance_is() -> Result<()> {
    let engine = engine_with_shop()?;
    engine.python("shop", "open('/ace/data/from_app', 'w').write('hello'); answer = 1")?;
    let code = "import os, index; print(open('/ace/data/from_app').read(), os.environ['COLOUR'],\
                os.environ['ACE_RELEASE'], os.getcwd(), os.getuid()); \
                open('/ace/data/from_command', 'w').write('back')";
    let ran = engine.ace(&["run", "shop", "--", "python", "-c", code])?.ok()?;
    assert_eq!(ran.stdout, "hello blue 1 /ace/code 1000\n");
    let answer = engine.python("shop", "answer = open('/ace/data/from_command').read()")?;
    assert_eq!(answer, "back");
    let log = engine.ace(&["logs", "shop"])?.ok()?.stdout;
    assert!(log.contains("ace: python started") && log.contains("ended with status 0"), "{log}");
    assert!(!log.contains("from_command"), "{log}");
    Ok(())
}

#[test]
fn a_command_has_its_own_streams_and_status() -> Result<()> {
    let engine = engine_with_shop()?;
    let run = |argv: &[&str]| engine.ace(&[&["run", "shop", "--"], argv].concat());
    let ran = run(&["sh", "-c", "echo out; echo err >&2; exit 7"])?;
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (7, "out\n", "err\n"));
    let ran = run(&["no-such-program"])?;
    assert_eq!(ran.status, 127, "{ran:?}");
    assert!(ran.stderr.contains("could not run no-such-program"), "{ran:?}");
    let ran = run(&["python", "-c", "x = 'x' * (200 << 20)"])?;
    assert_eq!(ran.status, 137, "{ran:?}");
    assert!(ran.stderr.contains("out of memory: its limit is 64M"), "{ran:?}");
    let ran = engine.ace(&["run", "nope", "--", "true"])?;
    assert_eq!(ran.status, 255, "{ran:?}");
    assert!(ran.stderr.starts_with("error: there is no app named"), "{ran:?}");
    Ok(())
}

#[test]
fn bytes_pass_as_they_are_both_ways() -> Result<()> {
    let engine = engine_with_shop()?;
    // More than all that lies between: windows, pipes, sockets.
    let sent: Vec<u8> =
        (0..4_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut command = engine.command(&["run", "shop", "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no input")?;
    let to_send = sent.clone();
    let sending = std::thread::spawn(move || stdin.write_all(&to_send));
    let output = child.wait_with_output()?;
    sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == sent, "{} bytes of {} came back", output.stdout.len(), sent.len());
    Ok(())
}

#[test]
fn a_reader_that_leaves_ends_the_command() -> Result<()> {
    let engine = engine_with_shop()?;
    let mut command = engine.command(&["run", "shop", "--", "yes", "up"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    assert_eq!((line.as_str(), child.wait()?.code()), ("up\n", Some(0)));
    none_runs(&engine)
}

/// Waits until no command runs.
fn none_runs(engine: &Engine) -> Result<()> {
    let none =
        || Some(()).filter(|()| engine.status("shop").is_ok_and(|it| it["commands"] == json!([])));
    eventually("the command's end", DEADLINE, none)
}

#[test]
fn an_interrupt_reaches_the_command() -> Result<()> {
    let engine = engine_with_shop()?;
    let child = start(&engine, &["run", "shop", "--", "python", "-c", STAY])?;
    assert_eq!(engine.status("shop")?["commands"][0]["name"], "python");
    signal(&child, "-INT")?;
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("KeyboardInterrupt"), "{output:?}");
    Ok(())
}

fn signal(child: &Child, name: &str) -> Result<()> {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status()?;
    ensure!(sent.success(), "kill ended with {sent}");
    Ok(())
}

#[test]
fn a_shell_is_on_a_real_terminal() -> Result<()> {
    let engine = engine_with_shop()?;
    let steps = json!([
        ["expect", "shop"],
        ["type", "stty size; echo $TERM\n"],
        ["expect", "24 80"],
        ["expect", "xterm"],
        ["size", 100, 40],
        ["type", "python -c 'import time; print(6 * 7); time.sleep(600)'\n"],
        ["expect", "42"],
        ["type", "\u{3}"],
        ["expect", "Interrupt"],
        ["type", "stty size; exit 7\n"],
        ["expect", "40 100"],
    ]);
    let ended = on_terminal(&engine, &steps, &["shell", "shop"])?;
    assert_eq!((&ended["status"], &ended["restored"]), (&json!(7), &json!(true)), "{ended}");
    Ok(())
}

#[test]
fn a_program_has_the_whole_screen_and_its_end_gives_it_back() -> Result<()> {
    let engine = engine_with_shop()?;
    let curses = "import curses\n\
                  def main(screen):\n    \
                      screen.addstr(f'{curses.COLS} by {curses.LINES}'); screen.refresh()\n    \
                      screen.addstr(f'got {screen.getch()}'); screen.refresh()\n\
                  curses.wrapper(main)";
    let steps = json!([["expect", "80 by 24"], ["type", "q"], ["expect", "got 113"]]);
    let ended = on_terminal(&engine, &steps, &["run", "shop", "--", "python", "-c", curses])?;
    assert_eq!((&ended["status"], &ended["restored"]), (&json!(0), &json!(true)), "{ended}");
    Ok(())
}

#[test]
fn the_terminal_is_given_back_though_we_are_told_to_end() -> Result<()> {
    let engine = engine_with_shop()?;
    let steps = json!([["expect", "up"], ["signal", 15]]);
    let ended = on_terminal(&engine, &steps, &["run", "shop", "--", "python", "-c", STAY])?;
    assert_eq!((&ended["status"], &ended["restored"]), (&json!(143), &json!(true)), "{ended}");
    none_runs(&engine)
}

#[test]
fn a_killed_engine_takes_its_commands_along_and_the_next_one_removes_them() -> Result<()> {
    let mut engine = engine_with_shop()?;
    let child = start(&engine, &["run", "shop", "--", "python", "-c", STAY])?;
    let id = engine.status("shop")?["commands"][0]["id"].as_str().context("no id")?.to_owned();
    let folder = engine.data().join("run").join(&id);
    assert!(folder.join("command.json").exists());
    engine.kill()?;
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(255));
    let init_is_gone = || Some(()).filter(|()| !cgroup_has_processes(&id));
    eventually("the end of what the engine ran", DEADLINE, init_is_gone)?;

    // One that the kill met before there was a container: all that there is then is what it is to be.
    let begun = engine.data().join("run/aaaaaaaa");
    fs::create_dir(&begun)?;
    fs::copy(folder.join("command.json"), begun.join("command.json"))?;
    engine.start_server()?;
    assert!(!folder.exists() && !begun.exists());
    let log = engine.ace(&["logs", "shop"])?.ok()?.stdout;
    assert!(log.contains("python ended with the engine that ran it"), "{log}");
    Ok(())
}

/// Whether a process is in a control group whose path has `id` in it.
fn cgroup_has_processes(id: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut groups = processes.map(|process| process.path().join("cgroup"));
    groups.any(|group| fs::read_to_string(group).is_ok_and(|text| text.contains(id)))
}

#[test]
fn commands_end_with_their_app_and_in_down() -> Result<()> {
    let mut engine = engine_with_shop()?;
    let child = start(&engine, &["run", "shop", "--", "python", "-c", STAY])?;
    engine.ace(&["destroy", "shop", "--yes"])?.ok()?;
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("was destroyed"), "{output:?}");

    engine.deploy(AppFolder::workbench()?.path(), "shop")?.ok()?;
    let child = start(&engine, &["run", "shop", "--", "python", "-c", STAY])?;
    engine.down()?;
    assert_eq!(child.wait_with_output()?.status.code(), Some(255));
    assert_eq!(engine.leftovers()?, Vec::<String>::new());
    engine.start_server()
}

#[test]
fn predeploy_prepares_the_volume_before_the_new_release_starts() -> Result<()> {
    let engine = engine()?;
    let shop = AppFolder::new(&format!(
        "assert open('/ace/data/schema').read() == '2'\n{}",
        app::saying("two")
    ))?;
    shop.write("app.yaml", "volume: 32M\npredeploy: python migrate.py\n")?;
    shop.write(
        "migrate.py",
        "import sys\nprint('migrating')\nprint('to 2', file=sys.stderr)\n\
         open('/ace/data/schema', 'w').write('2')\n",
    )?;
    let said = engine.deploy(shop.path(), "shop")?.ok()?;
    assert!(said.stderr.contains("    migrating\n    to 2\n"), "{}", said.stderr);
    assert_eq!(engine.get("shop", "/")?.text(), "two");

    shop.write("index.py", &app::saying("three"))?;
    shop.write("migrate.py", "import sys\nprint('no way')\nsys.exit(9)\n")?;
    let failed = engine.deploy(shop.path(), "shop")?;
    assert_eq!(failed.status, 1);
    let reason =
        "error: the predeploy command failed: it ended with status 9; release 1 still serves";
    assert!(failed.stderr.contains(reason), "{}", failed.stderr);
    assert_eq!(failed.stderr.matches("no way").count(), 1, "{}", failed.stderr);
    assert_eq!(engine.get("shop", "/")?.text(), "two");
    Ok(())
}

#[test]
fn a_predeploy_cut_short_by_a_kill_fails_its_deploy() -> Result<()> {
    let mut engine = engine()?;
    let shop = AppFolder::saying("one")?;
    engine.deploy(shop.path(), "shop")?.ok()?;
    shop.write("app.yaml", "predeploy: echo preparing; sleep 600\n")?;
    let folder = shop.path().to_str().context("no text")?;
    let mut command = engine.command(&["deploy", folder, "--app", "shop"]);
    let mut deploy = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let lines = BufReader::new(deploy.stderr.take().context("no errors")?).lines();
    lines.map_while(Result::ok).find(|line| line == "    preparing").context("it never ran")?;
    engine.kill()?;
    deploy.wait()?;
    engine.start_server()?;
    let status = engine.status("shop")?;
    let error = status["last_deploy"]["error"].as_str().context("no error")?;
    assert!(error.contains("while the predeploy command ran"), "{error}");
    assert_eq!((&status["release"], &status["commands"]), (&json!(1), &json!([])));
    let runs: Vec<_> = fs::read_dir(engine.data().join("run"))?.collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    Ok(())
}

#[test]
fn files_alone_have_nothing_to_run_commands_in() -> Result<()> {
    let engine = engine()?;
    let page = AppFolder::empty()?;
    page.write("index.html", "<p>hello</p>")?;
    page.write("app.yaml", "predeploy: echo x\n")?;
    let refused = engine.deploy(page.path(), "page")?;
    assert!(refused.stderr.contains("predeploy has no Python to run in"), "{}", refused.stderr);
    page.write("app.yaml", "")?;
    engine.deploy(page.path(), "page")?.ok()?;
    let refused = engine.ace(&["run", "page", "--", "true"])?;
    assert_eq!(refused.status, 255);
    assert!(refused.stderr.contains("page is files alone"), "{}", refused.stderr);
    Ok(())
}
