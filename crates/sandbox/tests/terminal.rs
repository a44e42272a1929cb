//! Programs on a terminal of their container's own, and commands that people start. Needs root and
//! Python.

#![allow(clippy::unwrap_used)] // All of it is for tests.

mod kit;

use ace_sandbox::spec::{ContainerSpec, ExitRecord, Found, OutputSpec, SignalTarget};
use ace_types::TerminalSize;
use kit::{Kit, OnTerminal, python, shell};
use rustix::process::Signal;
use rustix::termios::{Winsize, tcsetwinsize};

fn on_terminal(kit: &Kit, argv: Vec<String>) -> ContainerSpec {
    let mut spec = kit.spec(argv);
    spec.output = OutputSpec::Terminal(TerminalSize { columns: 91, rows: 17 });
    spec.root.terminals = 4;
    spec
}

fn is_program(pid: u32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim() == name)
}

fn start(kit: &Kit, argv: Vec<String>) -> OnTerminal {
    kit.start_on_terminal(&on_terminal(kit, argv))
}

#[test]
fn a_terminal_is_all_that_a_program_may_ask_of_one() {
    let Some(kit) = Kit::new() else { return };
    let mut running = start(
        &kit,
        python(
            "import os\n\
             print(os.ttyname(0), os.ttyname(1), os.ttyname(2), os.get_terminal_size())\n\
             print(os.tcgetpgrp(0) == os.getpgrp() == os.getpid(), os.ctermid())\n\
             os.write(os.open('/dev/tty', os.O_RDWR), b'by way of /dev/tty\\n')\n\
             print(oct(os.stat(os.ttyname(0)).st_mode), os.stat(os.ttyname(0)).st_uid)",
        ),
    );
    assert_eq!(
        running.read_to_end(),
        "/dev/pts/0 /dev/pts/0 /dev/pts/0 os.terminal_size(columns=91, lines=17)\r\n\
         True /dev/tty\r\nby way of /dev/tty\r\n0o20600 1000\r\n"
    );
    assert_eq!(running.wait().status, Some(0));
}

#[test]
fn a_program_knows_who_is_logged_in() {
    let Some(kit) = Kit::new() else { return };
    if !std::path::Path::new("/proc/self/loginuid").exists() {
        return eprintln!("skipped: this kernel keeps no login user");
    }
    let ended = kit.run(python("import os; print(os.getlogin())"));
    assert_eq!(ended.stdout, "app\n", "{}", ended.stderr);
}

#[test]
fn what_is_typed_is_read_and_control_characters_are_signals() {
    let Some(kit) = Kit::new() else { return };
    let mut running = start(&kit, shell("read line; echo got $line; exec sleep 600"));
    running.type_in("hello\n");
    running.read_until("got hello");
    running.type_in("\x03");
    let record = running.wait();
    assert_eq!((record.status, record.signal), (None, Some(2)));
}

#[test]
fn a_shell_has_job_control() {
    let Some(kit) = Kit::new() else { return };
    let mut running = start(&kit, vec!["sh".to_owned(), "-i".to_owned()]);
    running.type_in("sleep 600\n");
    running.read_until("sleep 600\r\n");
    // Until the command has the terminal, the shell would take this for its own.
    while !kit.processes().iter().any(|pid| is_program(*pid, "sleep")) {
        std::thread::yield_now();
    }
    running.type_in("\x1a");
    running.read_until("Stopped");
    // Not `exit`: a shell refuses that once while a job of it is stopped.
    running.type_in("echo st''ill here; exec sh -c 'exit 3'\n");
    running.read_until("still here");
    assert_eq!(running.wait().status, Some(3));
}

#[test]
fn a_program_is_told_when_its_terminal_changes_its_size() {
    let Some(kit) = Kit::new() else { return };
    let mut running = start(
        &kit,
        python(
            "import os, signal\n\
             signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])\n\
             print('ready', flush=True)\n\
             signal.sigwait([signal.SIGWINCH])\n\
             print(os.get_terminal_size())",
        ),
    );
    running.read_until("ready");
    let size = Winsize { ws_row: 40, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&running.master, size).unwrap();
    running.read_until("os.terminal_size(columns=132, lines=40)");
}

#[test]
fn last_words_are_shown() {
    let Some(kit) = Kit::new() else { return };
    for _ in 0..20 {
        let mut running = start(&kit, python("print('x' * 3000 + 'end')"));
        assert!(running.read_to_end().ends_with("end\r\n"));
    }
}

#[test]
fn who_hangs_up_ends_the_program() {
    let Some(kit) = Kit::new() else { return };
    let mut running = start(&kit, shell("echo ready; exec sleep 600"));
    running.read_until("ready");
    assert_eq!(running.hang_up().signal, Some(1));
}

#[test]
fn a_program_may_open_terminals_of_its_own_up_to_a_bound() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec(python(
        "import os\n\
         names = []\n\
         try:\n    \
             while True: names.append(os.ttyname(os.openpty()[1]))\n\
         except OSError: print(names)",
    ));
    spec.root.terminals = 2;
    let ended = kit.run_spec(&spec);
    assert_eq!(ended.stdout, "['/dev/pts/0', '/dev/pts/1']\n", "{}", ended.stderr);
}

#[test]
fn a_container_has_no_terminals_unless_it_is_given_some() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(shell("ls /dev; true < /dev/tty"));
    assert!(!ended.stdout.contains("pt"), "{}", ended.stdout);
    assert!(!ended.stderr.is_empty());
}

#[test]
fn a_program_without_a_slash_is_looked_for_in_the_path() {
    let Some(kit) = Kit::new() else { return };
    assert_eq!(kit.run(vec!["echo".to_owned(), "found".to_owned()]).stdout, "found\n");
    let ended = kit.run(vec!["no-such-program".to_owned()]);
    assert_eq!(
        ended.stderr,
        "ace: could not run no-such-program: No such file or directory (os error 2)\n"
    );
    assert_eq!(ended.record.status, Some(127));
}

#[test]
fn a_signal_for_the_group_reaches_what_the_program_has_started() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec(shell(
        "python3 -c 'import signal; print(\"up\", flush=True); signal.pause()'; echo after",
    ));
    spec.process.signals = SignalTarget::Group;
    let mut running = kit.start(&spec);
    assert_eq!(running.line(), "up\n");
    running.signal(Signal::INT);
    let ended = running.wait();
    assert!(ended.stderr.contains("KeyboardInterrupt"), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_program_whose_end_nobody_waits_for_is_ended() {
    let Some(kit) = Kit::new() else { return };
    let mut running = kit.start(&kit.spec(shell("trap 'echo asked; exit' TERM; echo up; cat")));
    assert_eq!(running.line(), "up\n");
    let (other, _) = std::io::pipe().unwrap();
    running.exit = other;
    running.wait_for_end();
    assert_eq!(running.line(), "asked\n");
    assert_eq!(kit.processes(), Vec::<u32>::new());
}

#[test]
fn the_other_side_of_a_terminal_is_not_in_the_container() {
    let Some(kit) = Kit::new() else { return };
    let mut running = start(&kit, shell("ls -l /proc/self/fd; ls -1 /dev/pts"));
    let shown = running.read_to_end();
    assert!(shown.ends_with("0\r\nptmx\r\n"), "{shown}");
    assert!(!shown.lines().any(|line| line.contains("->") && line.contains("ptmx")), "{shown}");
    assert_eq!(
        running.wait(),
        ExitRecord { status: Some(0), signal: None, asked: false, found: Found::NOTHING }
    );
}
