//! Real containers, and what a tenant's process finds in one. Needs root and Python.

#![allow(clippy::unwrap_used)] // All of it is for tests.

mod kit;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ace_sandbox::launch::LaunchError;
use ace_sandbox::network::Wire;
use ace_sandbox::process::{self, ProcessRef};
use ace_sandbox::spec::{
    Bind, ExitRecord, Found, LogSpec, NetworkSpec, OutputSpec, SignalTarget, SocketUse,
    VolumeMount, VolumeSource,
};
use ace_sandbox::volume;
use ace_types::{BitRate, Bytes, IdRange, Limits};
use kit::{Groups, Kit, python, shell};
use rustix::process::Signal;

const EXITED_0: ExitRecord =
    ExitRecord { status: Some(0), signal: None, asked: false, found: Found::NOTHING };

#[test]
fn a_program_gives_its_output_and_status() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(shell("echo out; echo err >&2; exit 7"));
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(
        ended.record,
        ExitRecord { status: Some(7), signal: None, asked: false, found: Found::NOTHING }
    );
}

#[test]
fn a_program_that_is_missing_is_named() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(vec!["/usr/bin/no-such-program".to_owned()]);
    assert_eq!(
        ended.stderr,
        "ace: could not run /usr/bin/no-such-program: No such file or directory (os error 2)\n"
    );
    assert_eq!(ended.record.status, Some(127));
}

#[test]
fn the_environment_and_folder_are_those_of_the_spec() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec(vec!["/usr/bin/env".to_owned()]);
    spec.process.env = vec![("A".to_owned(), "1 = 2".to_owned()), ("B".to_owned(), String::new())];
    assert_eq!(kit.run_spec(&spec).stdout, "A=1 = 2\nB=\n");

    let mut spec = kit.spec(shell("pwd; uname -n; id -un; id -G; umask"));
    spec.process.working_directory = "/usr/bin".into();
    assert_eq!(kit.run_spec(&spec).stdout, "/usr/bin\ntest-host\napp\n1000\n0022\n");
}

#[test]
fn a_process_has_no_privileges() {
    let Some(kit) = Kit::new() else { return };
    let status = kit.run(shell("cat /proc/self/status")).stdout;
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1000\t1000\t1000\t1000",
        "Groups:\t ",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
    ] {
        assert!(status.lines().any(|found| found == line), "no {line:?} in\n{status}");
    }
}

#[test]
fn a_process_has_the_resource_limits_of_the_spec() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec(python(
        "from resource import *\n\
         print(*map(getrlimit, [RLIMIT_NOFILE, RLIMIT_CORE, RLIMIT_MEMLOCK, RLIMIT_FSIZE]))",
    ));
    spec.process.open_files_max = 77;
    spec.process.file_size_max = Some(Bytes(123_456));
    assert_eq!(kit.run_spec(&spec).stdout, "(77, 77) (1, 1) (65536, 65536) (123456, 123456)\n");
}

#[test]
fn a_container_has_none_of_the_priority_of_its_engine() {
    let Some(kit) = Kit::new() else { return };
    rustix::process::setpriority_process(None, -5).expect("root may");
    let said = kit.run(python(
        "
import os
from resource import *
print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))
print(*map(getrlimit, [RLIMIT_NICE, RLIMIT_RTPRIO]))
for go_before in (lambda: os.nice(-1), lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))):
    try:
        print('let through', go_before())
    except OSError as error:
        print(error.errno in (1, 13))
",
    ));
    assert_eq!(said.stdout, "0 0\n(0, 0) (0, 0)\nTrue\nTrue\n", "{}", said.stderr);
}

/// At 0, the kernel would run the host's handler of core files, as root.
#[test]
fn the_limit_of_core_files_can_not_be_lowered_and_others_can() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(python(
        "
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.prlimit(0, resource.RLIMIT_CORE, (0, 1))
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE))
",
    ));
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("(1, 1) (32, 32)\n", ""));
}

#[test]
fn sockets_of_the_internet_speak_the_common_protocols_alone() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(python(
        "
import socket
kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
for protocol in (6, 17, 33, 115, 132, 136, 256):
    words = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind in kinds:
            try:
                socket.socket(family, kind, protocol).close()
                words.add('open')
            except PermissionError:
                words.add('refused')
            except OSError:
                words.add('unfit')
    print(protocol, sorted(words))
",
    ));
    assert_eq!(
        ended.stdout,
        "6 ['open', 'unfit']\n17 ['open', 'unfit']\n33 ['refused']\n115 ['refused']\n\
         132 ['refused']\n136 ['refused']\n256 ['refused']\n"
    );
}

#[test]
fn nothing_but_tmp_can_be_written() {
    let Some(kit) = Kit::new() else { return };
    let code = kit.folder("code", &[("index.py", "pass")]);
    // Even a tree that the tenant owns and may write to by its mode.
    kit.give_to_tenant(&code);
    let mut spec = kit.spec(python(
        "import os\n\
         for top in '/', '/usr', '/etc', '/ace', '/ace/code', '/dev', '/proc', '/proc/sys/kernel':\n\
         \x20   try: open(top + '/new', 'w'); print('wrote', top)\n\
         \x20   except OSError: pass\n\
         try: open('/ace/code/index.py', 'w'); print('wrote code')\n\
         except OSError as e: print(e.strerror)\n\
         open('/tmp/new', 'w').write('x'); open('/dev/shm/new', 'w').write('x')\n\
         print(open('/ace/code/index.py').read())",
    ));
    spec.root.binds.push(Bind {
        source: code,
        target: "/ace/code".into(),
        writable: false,
        noexec: false,
    });
    let ended = kit.run_spec(&spec);
    assert_eq!(ended.stdout, "Read-only file system\npass\n", "{}", ended.stderr);
}

#[test]
fn a_writable_bind_is_written_as_the_tenant_and_runs_no_programs() {
    let Some(kit) = Kit::new() else { return };
    let work = kit.folder("work", &[]);
    kit.give_to_tenant(&work);
    let mut spec = kit.spec(shell(
        "cp /usr/bin/true /work/place/true && { /work/place/true 2>/dev/null || echo refused $?; }",
    ));
    spec.root.binds.push(Bind {
        source: work.clone(),
        target: "/work/place".into(),
        writable: true,
        noexec: true,
    });
    assert_eq!(kit.run_spec(&spec).stdout, "refused 126\n");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(work.join("true")).unwrap());
    assert_eq!(owner, kit.ids().host_id(IdRange::APP));
}

#[test]
fn tmp_is_bounded_in_size_and_in_files() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(python(
        "import os, errno\n\
         def fill(each):\n\
         \x20   count = 0\n\
         \x20   try:\n\
         \x20       while count < 10000: each(count); count += 1\n\
         \x20   except OSError as e: return count, errno.errorcode[e.errno]\n\
         f = open('/tmp/big', 'wb', buffering=0)\n\
         print(fill(lambda n: f.write(bytes(1 << 20))))\n\
         os.unlink('/tmp/big'); f.close()\n\
         print(fill(lambda n: open(f'/tmp/{n}', 'w').close()))",
    ));
    // 8 MiB and 100 inodes, one of which is the folder's own.
    assert_eq!(ended.stdout, "(8, 'ENOSPC')\n(99, 'ENOSPC')\n", "{}", ended.stderr);
}

#[test]
fn the_host_is_out_of_sight() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(python(
        "import os\n\
         known = {'ace','bin','dev','etc','lib','lib32','lib64','libx32','proc','sbin','sys','tmp','usr'}\n\
         print(set(os.listdir('/')) - known)\n\
         print([p for p in os.listdir('/proc') if p.isdigit()] == [str(os.getpid())])\n\
         print(sorted(os.listdir('/sys/devices/system')), os.listdir('/sys'))\n\
         print(sorted(set(os.listdir('/etc')) & {'shadow', 'machine-id', 'ssh', 'fstab'}))\n\
         print(open('/proc/kallsyms').read() == open('/proc/keys').read() == '')\n\
         print([i.split(':')[0].strip() for i in open('/proc/net/dev').readlines()[2:]])\n\
         print(open('/proc/self/cgroup').read().count('ace'))",
    ));
    assert_eq!(
        ended.stdout, "set()\nTrue\n['cpu'] ['devices']\n[]\nTrue\n['lo']\n0\n",
        "{}",
        ended.stderr
    );
}

#[test]
fn standard_libraries_find_what_they_look_for() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec(python(
        "import os, pwd, socket, ssl, subprocess, tempfile, multiprocessing, threading, time\n\
         assert pwd.getpwuid(os.getuid()).pw_dir == '/tmp'\n\
         assert socket.gethostbyname('localhost') == '127.0.0.1'\n\
         assert ssl.create_default_context() and os.cpu_count()\n\
         assert subprocess.run(['true'], stdin=subprocess.DEVNULL).returncode == 0\n\
         tempfile.TemporaryFile().write(b'x')\n\
         multiprocessing.Lock()\n\
         pool = multiprocessing.Pool(2); assert pool.map(abs, [-1]) == [1]; pool.terminate()\n\
         thread = threading.Thread(target=time.sleep, args=[0]); thread.start(); thread.join()\n\
         server = socket.create_server(('127.0.0.1', 80))\n\
         socket.create_connection(('127.0.0.1', 80)).close()\n\
         os.mkfifo('/tmp/fifo')\n\
         print(open('/etc/resolv.conf').read(), end='')",
    ));
    spec.root.nameservers.push([198, 18, 0, 1].into());
    let ended = kit.run_spec(&spec);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("nameserver 198.18.0.1\n", ""));
}

/// A call's number and arguments, as Python; and what it must fail with.
#[cfg(target_arch = "x86_64")]
const REFUSED: [(i64, &str, &str); 28] = [
    (libc::SYS_unshare, "0x10000000", "EPERM"), // CLONE_NEWUSER
    (libc::SYS_unshare, "0x20000", "EPERM"),    // CLONE_NEWNS
    (libc::SYS_setns, "0, 0", "EPERM"),
    (libc::SYS_clone, "0x10000011, 0, 0, 0, 0", "EPERM"), // CLONE_NEWUSER | SIGCHLD
    (libc::SYS_clone3, "0, 0", "ENOSYS"),
    (libc::SYS_mount, "b'x', b'/tmp', b'tmpfs', 0, 0", "EPERM"),
    (libc::SYS_umount2, "b'/tmp', 2", "EPERM"),
    (libc::SYS_fsopen, "b'tmpfs', 0", "EPERM"),
    (libc::SYS_open_tree, "-100, b'/', 1", "EPERM"),
    (libc::SYS_pivot_root, "b'/', b'/'", "EPERM"),
    (libc::SYS_chroot, "b'/tmp'", "EPERM"),
    (libc::SYS_ptrace, "0, 0, 0, 0", "EPERM"),
    (libc::SYS_process_vm_readv, "1, 0, 0, 0, 0, 0", "EPERM"),
    (libc::SYS_io_uring_setup, "8, bytes(120)", "EPERM"),
    (libc::SYS_io_setup, "8, bytes(8)", "EPERM"),
    (libc::SYS_bpf, "0, 0, 0", "EPERM"),
    (libc::SYS_userfaultfd, "1", "EPERM"),
    (libc::SYS_perf_event_open, "0, 0, 0, 0, 0", "EPERM"),
    (libc::SYS_keyctl, "0, 0", "EPERM"),
    (libc::SYS_add_key, "b'user', b'a', b'b', 1, -3", "EPERM"),
    (libc::SYS_name_to_handle_at, "-100, b'/', 0, 0, 0", "EPERM"),
    (libc::SYS_socket, "40, 1, 0", "EPERM"),       // AF_VSOCK
    (libc::SYS_socket, "17, 3, 0", "EPERM"),       // AF_PACKET
    (libc::SYS_socket, "16, 3, 12", "EPERM"),      // AF_NETLINK, NETLINK_NETFILTER
    (libc::SYS_socketpair, "30, 1, 0", "EPERM"),   // AF_TIPC
    (libc::SYS_ioctl, "0, 0x5412, b'x'", "EPERM"), // TIOCSTI
    (libc::SYS_personality, "0x40000", "EPERM"),   // ADDR_NO_RANDOMIZE
    (0x4000_0000 + libc::SYS_getpid, "0", "ENOSYS"), // By way of x32.
];

#[test]
#[cfg(target_arch = "x86_64")]
fn the_ways_out_are_closed() {
    let Some(kit) = Kit::new() else { return };
    let calls = REFUSED.map(|(number, arguments, _)| format!("print(call({number}, {arguments}))"));
    let ended = kit.run(python(&format!(
        "import ctypes, errno\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         def call(number, *arguments):\n\
         \x20   result = libc.syscall(number, *arguments)\n\
         \x20   return errno.errorcode[ctypes.get_errno()] if result < 0 else 'allowed'\n\
         {}\n\
         print(call(500), call({}, 16, 3, 0))",
        calls.join("\n"),
        libc::SYS_socket,
    )));
    let verdicts = ended.stdout.lines().collect::<Vec<_>>();
    assert_eq!(verdicts.len(), REFUSED.len() + 1, "{}", ended.stderr);
    for (verdict, (number, arguments, expected)) in verdicts.iter().zip(REFUSED) {
        assert_eq!(*verdict, expected, "call {number} with {arguments}");
    }
    // A call nobody knows yet; and the one netlink protocol that is allowed.
    assert_eq!(verdicts[REFUSED.len()], "ENOSYS allowed");
}

#[test]
fn devices_can_not_be_made_and_set_user_id_does_nothing() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(python(
        "import os, stat\n\
         try: os.mknod('/tmp/sda', stat.S_IFBLK | 0o666, os.makedev(8, 0)); print('made')\n\
         except PermissionError as e: print(e.strerror)\n\
         nosuid = [l.split()[4] for l in open('/proc/self/mountinfo') if 'nosuid' not in l.split()[5]]\n\
         print(nosuid)",
    ));
    assert_eq!(ended.stdout, "Operation not permitted\n[]\n", "{}", ended.stderr);
}

#[test]
fn init_is_out_of_reach() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(python(
        "import os, signal, errno\n\
         for number in signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP:\n\
         \x20   try: os.kill(1, number); print('sent')\n\
         \x20   except OSError as e: print(errno.errorcode[e.errno])\n\
         for name in 'mem', 'exe', 'environ', 'root', 'fd', 'maps', 'cmdline':\n\
         \x20   try: os.stat(f'/proc/1/{name}'); print('seen', name)\n\
         \x20   except OSError: pass\n\
         print(os.getpid() != 1, os.getppid())",
    ));
    assert_eq!(ended.stdout, "EPERM\nEPERM\nEPERM\nTrue 1\n", "{}", ended.stderr);
    assert_eq!(ended.record, EXITED_0);
}

#[test]
fn no_descriptor_of_ours_reaches_the_tenant() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(python(
        "import os\n\
         print([fd for fd in range(100) if os.path.exists(f'/proc/self/fd/{fd}')])",
    ));
    assert_eq!(ended.stdout, "[0, 1, 2]\n");
}

#[test]
fn a_listening_socket_is_handed_over() {
    let Some(kit) = Kit::new() else { return };
    let path = kit.path("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut spec = kit.spec(python(
        "import socket\n\
         connection, _ = socket.socket(fileno=5).accept()\n\
         connection.sendall(connection.recv(10).upper())",
    ));
    spec.process.socket = Some(SocketUse::Inherit { descriptor: 5 });
    // The request comes before there is anyone to accept it.
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"hello").unwrap();
    let running = kit.start_with(&spec, |handles| handles.socket = Some(listener.into()));
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HELLO");
    assert_eq!(running.wait().record, EXITED_0);
}

#[test]
fn a_connection_waits_until_the_program_listens_on_its_port() {
    let Some(kit) = Kit::new() else { return };
    let path = kit.path("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut spec = kit.spec(python(
        "import socket, sys\n\
         print('started', flush=True)\n\
         sys.stdin.readline()\n\
         connection, _ = socket.create_server(('127.0.0.1', 8000)).accept()\n\
         while said := connection.recv(4096):\n\
         \x20   connection.sendall(said.upper())\n\
         connection.sendall(b'the end')",
    ));
    spec.process.socket = Some(SocketUse::Forward { port: 8000, connections_max: 2 });
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"hello ").unwrap();
    let (stdin, mut keyboard) = std::io::pipe().unwrap();
    let mut running = kit.start_with(&spec, |handles| {
        handles.socket = Some(listener.into());
        handles.stdin = Some(stdin.into());
    });
    assert_eq!(running.line(), "started\n");
    keyboard.write_all(b"listen\n").unwrap();
    let mut first = [0; 6];
    client.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HELLO ");
    // Either side can end what it says, and still hear the other.
    let mut writer = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(&b"x".repeat(1_000_000)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    writing.join().unwrap();
    assert_eq!((rest.len(), rest.trim_start_matches('X')), (1_000_007, "the end"));
    assert_eq!(running.wait().record, EXITED_0);
}

#[test]
fn standard_input_is_handed_over() {
    let Some(kit) = Kit::new() else { return };
    let source = kit.folder("in", &[("text", "from outside")]);
    let stdin = fs::File::open(source.join("text")).unwrap();
    let spec = kit.spec(vec!["/usr/bin/cat".to_owned()]);
    let running = kit.start_with(&spec, |handles| handles.stdin = Some(stdin.into()));
    assert_eq!(running.wait().stdout, "from outside");
}

#[test]
fn what_the_main_process_leaves_behind_ends_with_it() {
    let Some(kit) = Kit::new() else { return };
    let began = Instant::now();
    // Its output's pipe would stay open as long as the child left behind.
    let ended = kit.run(shell("setsid sleep 600 & trap '' TERM; echo started; exit 0"));
    assert_eq!(ended.stdout, "started\n");
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(kit.processes(), Vec::<u32>::new());
}

#[test]
fn a_stop_lets_the_program_end_by_itself() {
    let Some(kit) = Kit::new() else { return };
    let mut running = kit.start(&kit.spec(python(
        "import signal, sys\n\
         signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n\
         print('ready', flush=True)\n\
         while True: signal.pause()",
    )));
    assert_eq!(running.line(), "ready\n");
    running.signal(Signal::TERM);
    let expected = ExitRecord { status: Some(3), signal: None, asked: true, found: Found::NOTHING };
    assert_eq!(running.wait().record, expected);
}

#[test]
fn what_a_shell_has_started_ends_by_itself_too() {
    let Some(kit) = Kit::new() else { return };
    let program = "import signal, sys, time\n\
                   signal.signal(signal.SIGTERM, lambda *_: sys.exit('asked'))\n\
                   print('started', flush=True)\n\
                   time.sleep(600)";
    let mut spec = kit.spec(shell(&format!("/usr/bin/python3 -c \"{program}\"; exit 7")));
    spec.process.signals = SignalTarget::Group;
    let mut running = kit.start(&spec);
    assert_eq!(running.line(), "started\n");
    running.signal(Signal::TERM);
    let ended = running.wait();
    assert_eq!((ended.stderr.as_str(), ended.record.asked), ("asked\n", true));
}

#[test]
fn a_program_that_ignores_the_stop_is_killed_after_the_grace() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec(shell("trap '' TERM; echo ready; while :; do sleep 1; done"));
    spec.stop_grace = Duration::from_millis(300);
    let mut running = kit.start(&spec);
    assert_eq!(running.line(), "ready\n");
    let asked = Instant::now();
    running.signal(Signal::TERM);
    let expected = ExitRecord { status: None, signal: Some(9), asked: true, found: Found::NOTHING };
    assert_eq!(running.wait().record, expected);
    assert!(asked.elapsed() >= Duration::from_millis(300));
}

#[test]
fn other_signals_are_passed_on() {
    let Some(kit) = Kit::new() else { return };
    let mut running =
        kit.start(&kit.spec(shell("trap 'exit 4' USR1; echo ready; sleep 600 & wait")));
    assert_eq!(running.line(), "ready\n");
    running.signal(Signal::USR1);
    let expected =
        ExitRecord { status: Some(4), signal: None, asked: false, found: Found::NOTHING };
    assert_eq!(running.wait().record, expected);
}

#[test]
fn orphans_are_reaped() {
    let Some(kit) = Kit::new() else { return };
    let ended = kit.run(python(
        "import os, time\n\
         for _ in range(20):\n\
         \x20   if os.fork() == 0:\n\
         \x20       if os.fork() == 0: time.sleep(0.05)\n\
         \x20       os._exit(0)\n\
         \x20   os.wait()\n\
         deadline = time.time() + 30\n\
         alive = lambda: [p for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]\n\
         while alive() and time.time() < deadline: time.sleep(0.05)\n\
         print(alive())",
    ));
    assert_eq!(ended.stdout, "[]\n", "{}", ended.stderr);
}

/// The engine's part in [`a_container_outlives_the_engine`]: starts a container, and waits for its
/// own end.
#[test]
#[ignore = "a process of another test"]
fn stand_in_engine() {
    let kit = Kit::new().unwrap();
    // A file, which outlives its maker as a pipe does not.
    let exit = fs::File::create(kit.path("exit")).unwrap();
    let running =
        kit.start_with(&kit.spec(shell("exec sleep 600")), |handles| handles.exit = exit.into());
    println!("\ncontainer {} {}", running.launched.pid, running.launched.start_time);
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_container_outlives_the_engine() {
    let Some(_) = Kit::new() else { return };
    let mut engine = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stand_in_engine", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(engine.stdout.take().unwrap()).lines().map_while(Result::ok);
    let container = lines
        .filter_map(|line| {
            let (pid, start_time) = line.strip_prefix("container ")?.split_once(' ')?;
            Some(ProcessRef { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
        })
        .next()
        .unwrap();
    engine.kill().unwrap();
    engine.wait().unwrap();

    let init = container.open().unwrap().expect("init has ended with the engine");
    std::thread::sleep(Duration::from_millis(100));
    assert!(container.open().unwrap().is_some(), "init ended soon after the engine");
    process::signal(&init, Signal::TERM).unwrap();
    kit::wait_for_end(&init);
    assert!(container.open().unwrap().is_none());
}

#[test]
fn output_goes_to_the_log_line_by_line() {
    let Some(kit) = Kit::new() else { return };
    let folder = kit.log_folder();
    let mut spec = kit.spec(shell(
        "echo one; echo two >&2; printf 'half'; \
         echo x > /ace/log/current || echo x > /ace/log/new || rm /ace/log/current",
    ));
    spec.output = OutputSpec::Log(LogSpec {
        folder: folder.clone(),
        size_max: Bytes::mib(1),
        rate_max_per_second: Bytes::kib(64),
    });
    assert_eq!(kit.run_spec(&spec).record.status, Some(1));

    let text = fs::read_to_string(folder.join("current")).unwrap();
    let mut lines = text.lines().map(|line| line.split_at("2026-11-23T05:49:27.123456Z ".len()));
    assert!(lines.clone().all(|(time, _)| time.trim_end().parse::<jiff::Timestamp>().is_ok()));
    let texts = lines.by_ref().map(|(_, text)| text).collect::<Vec<_>>();
    assert!(texts.contains(&"out one") && texts.contains(&"err two"), "{text}");
    assert!(texts.contains(&"out half"), "the last line has no end: {text}");
    assert_eq!(texts.iter().filter(|it| it.contains("Read-only file system")).count(), 3, "{text}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn a_flood_of_output_is_cut_and_the_rest_counted() {
    let Some(kit) = Kit::new() else { return };
    let folder = kit.log_folder();
    let mut spec = kit.spec(python(
        "import sys\n\
         for number in range(20000): sys.stdout.write('%099d\\n' % number)",
    ));
    let size_max = Bytes::kib(50);
    spec.output = OutputSpec::Log(LogSpec {
        folder: folder.clone(),
        size_max,
        rate_max_per_second: Bytes::kib(4),
    });
    assert_eq!(kit.run_spec(&spec).record, EXITED_0);

    let sizes = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().metadata().unwrap().len());
    let sizes = sizes.collect::<Vec<_>>();
    assert!(sizes.iter().sum::<u64>() <= size_max.0, "{sizes:?}");
    assert!(sizes.len() > 1, "64 KiB may come at once, in files of 10: {sizes:?}");
    let last = fs::read_to_string(folder.join("current")).unwrap();
    assert!(last.lines().last().unwrap().contains(" dropped: "), "{last}");
}

#[test]
fn a_container_that_can_not_be_made_says_which_step_failed() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec(shell("true"));
    spec.root.binds.push(Bind {
        source: "/no/such/folder".into(),
        target: "/ace/code".into(),
        writable: false,
        noexec: false,
    });
    let Err(LaunchError::Step { step, source }) = kit.try_start(&spec) else {
        panic!("it started");
    };
    assert_eq!(step, "bind /no/such/folder at /ace/code");
    assert_eq!(source.raw_os_error(), Some(libc::ENOENT));
    assert_eq!(kit.processes(), Vec::<u32>::new());
}

#[test]
fn a_launcher_that_says_nothing_is_an_error() {
    let Some(kit) = Kit::with_launcher(Path::new("/usr/bin/true")) else { return };
    let Err(LaunchError::Silent { status }) = kit.try_start(&kit.spec(shell("true"))) else {
        panic!("it was taken for a launcher");
    };
    assert!(status.success());
}

#[test]
fn the_launchers_program_can_not_be_written() {
    let Some(kit) = Kit::new() else { return };
    let mut running = kit.start(&kit.spec(shell("echo ready; sleep 600")));
    assert_eq!(running.line(), "ready\n");
    // Even for the host's root, by way of the process that runs it.
    let program = format!("/proc/{}/exe", running.launched.pid);
    let opened = fs::OpenOptions::new().write(true).open(program);
    let refused = opened.and_then(|mut file| file.write_all(b"x")).unwrap_err();
    let expected = [Some(libc::ETXTBSY), Some(libc::EPERM)];
    assert!(expected.contains(&refused.raw_os_error()), "{refused}");
    running.signal(Signal::TERM);
    assert_eq!(running.wait().record.signal, Some(libc::SIGTERM));
}

#[test]
fn a_link_is_not_followed_to_what_is_bound() {
    let Some(kit) = Kit::new() else { return };
    let work = kit.folder("work", &[]);
    std::os::unix::fs::symlink("/", work.join("link")).unwrap();
    let mut spec = kit.spec(shell("true"));
    spec.root.binds.push(Bind {
        source: work.join("link"),
        target: "/host".into(),
        writable: false,
        noexec: false,
    });
    let Err(LaunchError::Step { source, .. }) = kit.try_start(&spec) else {
        panic!("the host's root was bound");
    };
    assert_eq!(source.raw_os_error(), Some(libc::ELOOP));
}

#[test]
fn nothing_is_made_below_a_tree_of_the_tenants() {
    let Some(kit) = Kit::new() else { return };
    let code = kit.folder("code", &[]);
    std::os::unix::fs::symlink("/tmp", code.join("link")).unwrap();
    for (target, errno) in [("/ace/code/new", libc::EXDEV), ("/ace/code/link", libc::ENOTDIR)] {
        let mut spec = kit.spec(shell("true"));
        for target in ["/ace/code", target] {
            spec.root.binds.push(Bind {
                source: code.clone(),
                target: target.into(),
                writable: true,
                noexec: false,
            });
        }
        let Err(LaunchError::Step { source, .. }) = kit.try_start(&spec) else {
            panic!("{target} was mounted");
        };
        assert_eq!(source.raw_os_error(), Some(errno), "{target}");
    }
    assert!(!code.join("new").exists());
}

#[test]
fn a_container_leaves_nothing_on_the_host() {
    let Some(kit) = Kit::new() else { return };
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let mut running = kit.start(&kit.spec(shell("echo ready; sleep 600")));
    assert_eq!(running.line(), "ready\n");
    assert_eq!(mounts(), before, "a mount of the container is the host's too");
    assert!(!kit.processes().is_empty());
    running.signal(Signal::KILL); // Init itself: the kernel ends the rest.
    running.wait_for_end();
    assert_eq!(kit.processes(), Vec::<u32>::new());
}

#[test]
fn a_memory_bomb_takes_the_program_and_not_its_init() {
    let Some(kit) = Kit::new() else { return };
    let groups = Groups::new('m', &Limits { memory: Bytes::mib(64), ..Limits::for_app() });
    let mut spec = kit.spec(python("x = bytearray(b'x') * (1 << 30)"));
    spec.cgroup = groups.cgroup.clone();
    let record = kit.run_spec(&spec).record;
    assert_eq!(
        record,
        ExitRecord { status: None, signal: Some(9), asked: false, found: Found::NOTHING }
    );
    assert_eq!(groups.cgroup.oom_kills(), 1);
}

#[test]
fn a_fork_bomb_stops_at_its_limit() {
    let Some(kit) = Kit::new() else { return };
    let groups = Groups::new('f', &Limits { pids: 20, ..Limits::for_app() });
    let mut spec = kit.spec(python(
        "import os, time\n\
         count = 0\n\
         try:\n\
         \x20   while count < 1000:\n\
         \x20       if os.fork() == 0: time.sleep(600)\n\
         \x20       count += 1\n\
         except OSError as e: print(count, e.strerror)",
    ));
    spec.cgroup = groups.cgroup.clone();
    let ended = kit.run_spec(&spec);
    assert_eq!(ended.stdout, "19 Resource temporarily unavailable\n", "{}", ended.stderr);
    assert_eq!(ended.record, EXITED_0);
    assert!(groups.cgroup.pids_refused() > 0);
}

/// What its sockets hold is no one's memory to the kernel unless it was told to count it.
#[test]
fn sockets_hold_no_more_than_the_limit_of_memory() {
    let Some(kit) = Kit::new() else { return };
    let memory = Bytes::mib(32);
    let groups = Groups::new('k', &Limits { memory, ..Limits::for_app() });
    let mut spec = kit.spec(python(
        "import socket\n\
         held, sockets = 0, []\n\
         for _ in range(400):\n\
         \x20   s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         \x20   s.bind(('127.0.0.1', 0))\n\
         \x20   s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)\n\
         \x20   for _ in range(8): s.sendto(bytes(32768), s.getsockname())\n\
         \x20   s.setblocking(False)\n\
         \x20   sockets.append(s)\n\
         for s in sockets:\n\
         \x20   try:\n\
         \x20       while True: held += len(s.recv(65536))\n\
         \x20   except BlockingIOError: pass\n\
         print(held)",
    ));
    spec.cgroup = groups.cgroup.clone();
    let ended = kit.run_spec(&spec);
    if groups.cgroup.oom_kills() > 0 {
        return; // Version 2 counts it with all else, and ends who goes past the limit.
    }
    let held: u64 = ended.stdout.trim().parse().unwrap_or_else(|_| panic!("{}", ended.stderr));
    assert!(held > 0 && held < memory.0, "{held} bytes of datagrams were held");
}

/// The kernel gives each user 128 inotify instances by default, those of root's namespaces counted.
#[test]
fn one_container_can_not_take_the_inotify_instances_of_another() {
    let (Some(greedy), Some(modest)) = (Kit::new(), Kit::new()) else { return };
    let script = |wanted: u32| {
        python(&format!(
            "import ctypes, sys\n\
             libc = ctypes.CDLL(None)\n\
             made = [libc.inotify_init1(0) for _ in range({wanted})]\n\
             print(sum(fd >= 0 for fd in made), flush=True)\n\
             sys.stdin.read()"
        ))
    };
    // It holds them until its standard input ends.
    let (stdin, keep) = std::io::pipe().unwrap();
    let spec = greedy.spec(script(1_000));
    let mut holder = greedy.start_with(&spec, |handles| handles.stdin = Some(stdin.into()));
    let taken: u32 = holder.line().trim().parse().unwrap();
    assert!((1..1_000).contains(&taken), "{taken}: this kernel sets no bound");
    assert_eq!(modest.run(script(8)).stdout, "8\n");
    drop(keep);
    assert_eq!(holder.wait().record, EXITED_0);
}

#[test]
fn a_process_sees_its_group_as_the_topmost() {
    let Some(kit) = Kit::new() else { return };
    let groups = Groups::new('n', &Limits::for_app());
    let mut spec = kit.spec(shell("cat /proc/self/cgroup"));
    spec.cgroup = groups.cgroup.clone();
    let listed = kit.run_spec(&spec).stdout;
    let topmost = listed.lines().filter(|line| line.ends_with(":/")).count();
    assert!(topmost >= groups.cgroup.folders.len(), "{listed}");
    assert!(!listed.contains("container"), "{listed}");
}

#[test]
fn a_volume_is_the_tenants_and_keeps_what_is_written() {
    let Some(kit) = Kit::new() else { return };
    let image = kit.path("volume.img");
    if let Err(volume::VolumeError::Format { source, .. }) =
        volume::ensure_image(&image, Bytes::mib(64), kit.ids())
    {
        eprintln!("skipped: {source}");
        return;
    }
    for script in ["echo kept > /ace/data/file && chmod 600 /ace/data/file", "cat /ace/data/file"] {
        let attached = volume::attach(&image).unwrap();
        let mut spec = kit.spec(shell(script));
        spec.root.volume = Some(VolumeMount {
            source: VolumeSource::Device(attached.device.clone()),
            target: "/ace/data".into(),
        });
        let ended = kit.run_spec(&spec);
        assert_eq!((ended.record, ended.stderr.as_str()), (EXITED_0, ""));
        assert_eq!(ended.stdout, if script.starts_with("cat") { "kept\n" } else { "" });
    }
}

#[test]
fn the_network_goes_with_its_container() {
    let Some(kit) = Kit::new() else { return };
    let host_interface = format!("vt{}", std::process::id());
    let mut spec = kit.spec(python(
        "import fcntl, socket, struct\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         SIOCGIFADDR = 0x8915\n\
         found = fcntl.ioctl(s, SIOCGIFADDR, struct.pack('256s', b'eth0'))\n\
         print(socket.inet_ntoa(found[20:24]), flush=True)\n\
         s.connect(('198.19.255.253', 9))\n\
         print(s.getsockname()[0], flush=True)\n\
         import time; time.sleep(600)",
    ));
    spec.network = NetworkSpec::Veth(Wire {
        host_interface: host_interface.clone(),
        address: [198, 19, 255, 254].into(),
        gateway: [198, 19, 255, 253].into(),
        bandwidth: BitRate::mega(50),
    });
    let mut running = kit.start(&spec);
    assert_eq!(running.line(), "198.19.255.254\n");
    assert_eq!(running.line(), "198.19.255.254\n");
    let interface = Path::new("/sys/class/net").join(host_interface);
    assert!(interface.exists());
    running.signal(Signal::KILL);
    running.wait_for_end();
    let deadline = Instant::now() + Duration::from_secs(30);
    while interface.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!interface.exists());
}
