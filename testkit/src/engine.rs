//! One engine: the server process, its folder, and commands for it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Answer};
use crate::{eventually, leftovers, seed};

const READY_DEADLINE: Duration = Duration::from_secs(60);
const END_DEADLINE: Duration = Duration::from_secs(60);
const UPGRADE_DEADLINE: Duration = Duration::from_secs(20);
const LOG_TAIL_LINES: usize = 60;
/// EXT4_IOC_SHUTDOWN without a flush of the journal; see linux/fs/ext4/ext4.h.
const SHUT_DOWN: &str = "
import errno, fcntl, os, struct, sys
try:
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))
except OSError as error:
    sys.exit(9 if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP) else 1)
";
const CANT_SHUT_DOWN: i32 = 9;

/// A running engine with a folder of its own.
#[derive(Debug)]
pub struct Engine {
    ace: PathBuf,
    /// Where `folder` stands, unless that is a disk like any other. Before it: the first to go.
    disk: Option<SmallDisk>,
    folder: TempDir,
    /// Variables of the server's besides those of the test's own.
    env: Vec<(String, String)>,
    server: Option<Server>,
    /// It has been taken down, and its slot may be another engine's by now.
    is_down: bool,
}

/// A file system of its own, in a file that takes no more room than what is written to it.
#[derive(Debug)]
struct SmallDisk {
    path: PathBuf,
}

#[derive(Debug)]
struct Server {
    process: Child,
    /// Where apps are served.
    address: SocketAddr,
    /// Where the API is served with tokens.
    api: SocketAddr,
}

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Itself, if the command went well.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.status == 0, "status {}\n{}{}", self.status, self.stdout, self.stderr);
        Ok(self)
    }

    /// The document that `--json` printed.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {}", self.stdout))
    }
}

impl Engine {
    /// Starts the program `ace`, usually `env!("CARGO_BIN_EXE_ace")`, and waits until it is ready.
    pub fn start(ace: impl AsRef<Path>) -> Result<Self> {
        Self::start_with(ace, &[])
    }

    /// The same with variables for the server besides those of the test's own.
    pub fn start_with(ace: impl AsRef<Path>, env: &[(&str, &str)]) -> Result<Self> {
        Self::start_in(ace.as_ref(), new_folder()?, None, env)
    }

    /// The same with a data folder on a disk of `mib` MiB.
    pub fn start_on_small_disk(ace: impl AsRef<Path>, mib: u64) -> Result<Self> {
        let folder = new_folder()?;
        let disk = SmallDisk::mount(folder.path().join("disk"), mib)?;
        Self::start_in(ace.as_ref(), folder, Some(disk), &[])
    }

    /// Makes a data folder of the backup `file`, and starts the program with it.
    ///
    /// It has the id of the engine that the backup is of, which must be down.
    pub fn restore(ace: impl AsRef<Path>, file: &Path) -> Result<Self> {
        let (ace, folder) = (ace.as_ref().to_owned(), new_folder()?);
        let mut engine =
            Self { ace, disk: None, folder, env: Vec::new(), server: None, is_down: false };
        let mut restore = Command::new(&engine.ace);
        restore.arg("restore").arg(file).arg("--data").arg(engine.data());
        let output = restore.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        engine.start_server()?;
        Ok(engine)
    }

    fn start_in(
        ace: &Path,
        folder: TempDir,
        disk: Option<SmallDisk>,
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (ace, env) = (ace.to_owned(), env.collect());
        let mut engine = Self { ace, disk, folder, env, server: None, is_down: false };
        fs::create_dir(engine.data())?;
        seed::give(&engine.data());
        engine.start_server()?;
        Ok(engine)
    }

    /// Starts the server again after [`Self::kill`] or [`Self::terminate`].
    pub fn start_server(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the server runs already");
        self.is_down = false;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut process = Command::new(&self.ace)
            .args(["server", "--http", "127.0.0.1:0", "--api", "127.0.0.1:0", "--data"])
            .arg(self.data())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let addresses = process.stdout.take().context("no output").and_then(ready_addresses);
        match addresses {
            Ok([address, api]) => {
                self.server = Some(Server { process, address, api });
                Ok(())
            }
            Err(error) => {
                process.kill()?;
                process.wait()?;
                Err(error.context(self.log_tail()))
            }
        }
    }

    /// Starts a server that has to end at once with status 1, and returns what it says.
    pub fn refuses_to_start(&self) -> Result<String> {
        let mut server = Command::new(&self.ace);
        server.args(["server", "--http", "127.0.0.1:0", "--data"]).arg(self.data());
        let output = server.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
        Ok(said)
    }

    /// The engine's data folder.
    pub fn data(&self) -> PathBuf {
        let disk = self.disk.as_ref().map(|disk| disk.path.as_path());
        disk.unwrap_or(self.folder.path()).join("data")
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.data().join("ace.sock")
    }

    /// The engine's id, which all it has in the kernel carries in its name.
    pub fn id(&self) -> Result<String> {
        let text = fs::read_to_string(self.data().join("engine.json"))?;
        let document: Value = serde_json::from_str(&text)?;
        Ok(document["id"].as_str().context("engine.json has no id")?.to_owned())
    }

    /// Runs `ace ARGUMENTS` against this engine.
    pub fn ace(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.command(arguments).stdin(Stdio::null()).output()?;
        Ok(Output {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// `ace ARGUMENTS` against this engine, to be run by the caller.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.ace);
        command.arg("--server").arg(self.socket()).args(arguments).env_remove("ACE_SERVER");
        command
    }

    /// Deploys `folder` as `app`.
    pub fn deploy(&self, folder: &Path, app: &str) -> Result<Output> {
        let folder = folder.to_str().context("the folder's name is no text")?;
        self.ace(&["deploy", folder, "--app", app])
    }

    /// Where apps are served.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.as_ref().context("the server does not run")?.address)
    }

    /// The server's process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.server.as_ref().context("the server does not run")?.process.id())
    }

    /// Where the API is served with tokens.
    pub fn api(&self) -> Result<SocketAddr> {
        Ok(self.server.as_ref().context("the server does not run")?.api)
    }

    /// Gets `path` of `app`.
    pub fn get(&self, app: &str, path: &str) -> Result<Answer> {
        self.request(app, "GET", path, &[], b"")
    }

    /// Asks `app` at `path` for a WebSocket, with the key of RFC 6455's example. Returns the connection, and
    /// the head of the answer, which is 101.
    pub fn upgrade(&self, app: &str, path: &str) -> Result<(TcpStream, String)> {
        let mut stream = TcpStream::connect(self.address()?)?;
        stream.set_read_timeout(Some(UPGRADE_DEADLINE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {app}.localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head)?;
        ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Ok((stream, head))
    }

    /// Sends `app` one request.
    pub fn request(
        &self,
        app: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let host = format!("{app}.localhost");
        http::request(self.address()?, &host, method, path, headers, body)
    }

    /// Runs `code` in the workbench app `app` and returns what it assigned to `answer`.
    pub fn python(&self, app: &str, code: &str) -> Result<Value> {
        let answer = self.request(app, "POST", "/", &[], code.as_bytes())?;
        ensure!(answer.status == 200, "status {}: {}", answer.status, answer.text());
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// What `ace status APP --json` says.
    pub fn status(&self, app: &str) -> Result<Value> {
        self.ace(&["status", app, "--json"])?.ok()?.json()
    }

    /// Ends the server as a power cut would: nothing of it runs on for a moment.
    pub fn kill(&mut self) -> Result<()> {
        let mut server = self.server.take().context("the server does not run")?;
        server.process.kill()?;
        server.process.wait()?;
        Ok(())
    }

    /// Ends all that the machine does for this engine, and has its disk, which must be a small one, forget what
    /// was not written to it yet. Returns whether this kernel can do that; where it can't, nothing is done.
    pub fn cut_power(&mut self) -> Result<bool> {
        let id = self.id()?;
        if !self.small_disk()?.shut_down()? {
            return Ok(false);
        }
        self.kill()?;
        leftovers::kill_all(&id)?;
        self.small_disk()?.mount_again()?;
        Ok(true)
    }

    /// Ends what outlives the engine, and mounts its disk, which must be a small one, anew.
    pub fn restart_machine(&self) -> Result<()> {
        leftovers::kill_all(&self.id()?)?;
        self.small_disk()?.mount_again()
    }

    fn small_disk(&self) -> Result<&SmallDisk> {
        self.disk.as_ref().context("the engine has no disk of its own")
    }

    /// Has the engine's disk, which must be a small one, take nothing any more, as after an error of its file
    /// system.
    pub fn forbid_writing(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "remount,abort"]).arg(&self.small_disk()?.path))
    }

    /// Waits until all that was written to the engine's folder is on its disk.
    pub fn sync(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(self.data())?)?)
    }

    /// Sends the server a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let server = self.server.as_ref().context("the server does not run")?;
        let pid = Pid::from_raw(i32::try_from(server.process.id())?).context("no process")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Asks the server to end, and waits until it has.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let server = self.server.take().context("the server does not run")?;
        end_of(server.process)
    }

    /// Asks the server to end, and starts the next one while it does.
    pub fn replace(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let before = self.server.take().context("the server does not run")?;
        self.start_server()?;
        end_of(before.process)
    }

    /// Runs `ace down` and waits until the server has ended.
    pub fn down(&mut self) -> Result<()> {
        self.ace(&["down"])?.ok()?;
        self.is_down = true;
        match self.server.take() {
            Some(server) => end_of(server.process),
            None => Ok(()),
        }
    }

    /// What is left of the engine in the kernel.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        Ok(leftovers::find(&self.id()?, &self.data()))
    }

    /// The end of the server's log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("the server's log ends with:\n{}", tail.join("\n"))
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn end(&mut self) -> Result<()> {
        seed::keep(&self.data());
        let id = self.id()?;
        let down = if self.is_down { Ok(()) } else { self.down() };
        if let Some(mut server) = self.server.take() {
            server.process.kill()?;
            server.process.wait()?;
        }
        down?;
        let left = leftovers::find(&id, &self.data());
        match left.is_empty() {
            true => Ok(()),
            false => bail!("left behind by engine {id}:\n{}", left.join("\n")),
        }
    }
}

impl Drop for Engine {
    /// Takes the engine down. Panics if that fails or leaves something, unless the test has failed
    /// already; then it says so and shows the server's log.
    fn drop(&mut self) {
        let ended = self.end();
        if let Err(error) = &ended {
            eprintln!("error: {error:#}");
        }
        if ended.is_err() || std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        assert!(ended.is_ok() || std::thread::panicking(), "the engine did not go away cleanly");
    }
}

impl SmallDisk {
    fn mount(path: PathBuf, mib: u64) -> Result<Self> {
        fs::create_dir(&path)?;
        let image = path.with_extension("img");
        File::create(&image)?.set_len(mib << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))?;
        let disk = Self { path };
        disk.attach()?;
        Ok(disk)
    }

    /// Whoever renames a file over another has to see to its content before.
    fn attach(&self) -> Result<()> {
        let image = self.path.with_extension("img");
        run(Command::new("mount").args(["-o", "loop,noauto_da_alloc"]).arg(image).arg(&self.path))
    }

    /// Has it take and keep nothing any more, its own journal's end included. Returns whether the kernel can.
    fn shut_down(&self) -> Result<bool> {
        let status = Command::new("python3").args(["-c", SHUT_DOWN]).arg(&self.path).status()?;
        match status.code() {
            Some(0) => Ok(true),
            Some(CANT_SHUT_DOWN) => Ok(false),
            _ => bail!("the disk was not shut down: {status}"),
        }
    }

    /// As after a start of the machine.
    fn mount_again(&self) -> Result<()> {
        let unmount = || run(Command::new("umount").arg(&self.path).stderr(Stdio::null())).ok();
        eventually("the disk without users", END_DEADLINE, unmount)?;
        // Namespaces of killed processes keep it mounted for a moment more, and whoever mounted the image
        // now would get that same file system again.
        let image = self.path.with_extension("img");
        eventually("the end of the disk", END_DEADLINE, || (!is_attached(&image)).then_some(()))?;
        self.attach()
    }
}

/// Whether a loop device shows `image`.
fn is_attached(image: &Path) -> bool {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut shown =
        devices.filter_map(|it| fs::read_to_string(it.path().join("loop/backing_file")).ok());
    shown.any(|file| Path::new(file.trim_end()) == image)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("error: {} is still mounted", self.path.display());
        }
    }
}

/// A short path: the sockets of apps lie below it and have 107 bytes at most.
fn new_folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("ace-t.").tempdir_in("/var/tmp")?)
}

/// The addresses in the line that a server prints when it is ready: of apps and of the API.
fn ready_addresses(stdout: ChildStdout) -> Result<[SocketAddr; 2]> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line).map(|_| line);
        // Nobody listens any more once the deadline has passed.
        let _ = sender.send(read);
    });
    let line = receiver.recv_timeout(READY_DEADLINE).context("the server did not get ready")??;
    let of_url = |url: &str| url.split(' ').next().and_then(|address| address.parse().ok());
    let addresses: Vec<SocketAddr> = line.split("http://").skip(1).filter_map(of_url).collect();
    let is_ready = line.starts_with("ace is ready: ");
    let addresses = addresses.try_into().ok().filter(|_| is_ready);
    addresses.with_context(|| format!("the server printed {line:?}"))
}

/// Waits until `process` has ended by itself; kills it if it does not.
fn end_of(mut process: Child) -> Result<()> {
    let ended = eventually("the server's end", END_DEADLINE, || process.try_wait().transpose());
    if ended.is_err() {
        process.kill()?;
        process.wait()?;
    }
    let status = ended??;
    ensure!(status.success(), "the server ended with {status}");
    Ok(())
}
