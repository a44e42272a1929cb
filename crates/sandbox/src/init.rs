//! Process 1 of a container: starts the tenant's program, and stays until it has ended.
//!
//! Init is user 0 inside and nobody on the host, with just enough capabilities to signal the
//! tenant's processes. It shares their namespaces but not their control group, so neither the
//! memory limit nor the limit of processes can take it. It has one thread and one loop; it outlives
//! the engine, which finds what it left in the exit file.

mod forward;
mod found;
mod keep;
mod output;
mod privileges;
mod tenant;
mod terminal;
mod written;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group,
    test_kill_process_group, wait,
};

use crate::channel::Descriptors;
use crate::failure::Step;
use crate::id_map::IdMap;
use crate::launcher::{Ended, Word};
use crate::process;
use crate::rootfs::{self, OpenLayer, Ways};
use crate::spec::{ContainerSpec, ExitRecord, Found, OutputSpec, SignalTarget, SocketUse};
use crate::sys;
use forward::Forwarder;
use found::Places;
use output::LogPump;
use tenant::{Input, Tenant};
use written::{Lookout, Written};

/// What is passed on to the tenant's first process. TERM is, too, and starts the clock.
const FORWARDED: [i32; 5] =
    [libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// See [`process::end_at_once`].
const END_AT_ONCE: i32 = process::END_AT_ONCE.as_raw();

/// How long killed processes may take to be gone. One that hangs in the kernel goes later, with the
/// namespace.
const REAP_DEADLINE: Duration = Duration::from_secs(5);

/// How long what an ended program has answered may take to reach its clients.
const ANSWERS_DEADLINE: Duration = Duration::from_secs(2);

/// What somebody can do about files that are gone with their container.
const WAY_TO_KEEP: &str = "\"volume:\" and \"keep:\" in app.yaml keep it";

/// A container's init.
pub struct Init {
    launcher: UnixStream,
    tenant: Tenant,
    log: Option<LogPump>,
    forwarder: Option<Forwarder>,
    signals: OwnedFd,
    exit: File,
    stop_grace: Duration,
    signal_target: SignalTarget,
    places: Places,
    layers: Vec<OpenLayer>,
    lookout: Lookout,
    /// Whether standard error leads to whoever reads what the program prints.
    shares_output: bool,
}

/// The tenant's program on its way through life.
struct Running {
    main: Pid,
    signal_target: SignalTarget,
    /// How the main process ended, once it has.
    ended: Option<WaitStatus>,
    /// When all is killed; `None` while nobody has asked for the end.
    kill_at: Option<Instant>,
    /// What was found, once there was a reason to look.
    found: Option<Found>,
}

impl Init {
    /// Makes of a freshly forked child of the launcher the init of its container.
    pub fn prepare(
        spec: ContainerSpec,
        id_map: Option<IdMap>,
        descriptors: Descriptors,
        app_groups: Vec<OwnedFd>,
        launcher: UnixStream,
    ) -> Result<Self, Ended> {
        let Ways { log: log_folder, layers } = rootfs::enter(&spec, id_map.as_ref())?;
        drop(id_map);
        let Descriptors { stdin, socket, terminal, exit } = descriptors;
        let input = match &spec.output {
            OutputSpec::Terminal(size) => {
                Input::Terminal(terminal::open(*size, terminal).step("make a terminal")?)
            }
            _ => stdin.map_or(Input::Nothing, Input::Given),
        };
        privileges::enter_user_namespace(&launcher, spec.ids)?;
        privileges::become_unprivileged().step("give up privileges")?;

        let log = match (&spec.output, log_folder) {
            (OutputSpec::Log(log), Some(folder)) => {
                Some(LogPump::open(folder, log).step("open the log")?)
            }
            _ => None,
        };
        let (inherited, forwarder) = match (socket, spec.process.socket) {
            (Some(socket), Some(SocketUse::Inherit { descriptor })) => {
                (Some((socket, descriptor)), None)
            }
            (Some(socket), Some(SocketUse::Forward { port, connections_max })) => {
                let forwarder = Forwarder::new(socket, port, connections_max);
                (None, Some(forwarder.step("watch the socket")?))
            }
            (None, _) | (_, None) => (None, None),
        };
        let tenant = Tenant::new(&spec.process, input, inherited, app_groups)?;
        sys::block_signals().step("block signals")?;
        let signals = sys::signal_descriptor().step("make a descriptor for signals")?;
        let exit = File::from(exit);
        let (stop_grace, signal_target) = (spec.stop_grace, spec.process.signals);
        let places = Places::of(&spec.root, &layers);
        Ok(Self {
            launcher,
            tenant,
            log,
            forwarder,
            signals,
            exit,
            stop_grace,
            signal_target,
            places,
            layers,
            lookout: Lookout::new(Instant::now()),
            shares_output: matches!(spec.output, OutputSpec::Inherit),
        })
    }

    /// Runs the tenant's program to its end.
    pub fn run(mut self) -> ExitCode {
        let go = Word::Ready.send(&self.launcher).and_then(|()| Word::Go.expect(&self.launcher));
        if go.is_err() {
            return ExitCode::FAILURE; // The engine knows nothing of this container.
        }
        let record = match self.supervise() {
            Ok(running) => running.record(),
            // Nobody is left to tell but the reader of the exit file.
            Err(_) => {
                ExitRecord { status: None, signal: None, asked: false, found: Found::NOTHING }
            }
        };
        match self.write_record(&record) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }

    /// Starts the program, waits for its end, and sees to it that nothing of it is left.
    fn supervise(&mut self) -> io::Result<Running> {
        let outputs = self.log.as_mut().and_then(LogPump::take_writing_ends);
        let main = self.tenant.start(outputs)?;
        let signal_target = self.signal_target;
        let mut running = Running { main, signal_target, ended: None, kill_at: None, found: None };
        while running.is_under_way() {
            if self.wait(running.kill_at)? == Waited::Deserted {
                running.terminate(self.stop_grace);
            }
            self.take_signals(&mut running)?;
            if let Some(log) = &mut self.log {
                log.pump();
            }
            self.tell_what_will_be_lost();
            if let Some(forwarder) = &mut self.forwarder {
                forwarder.turn()?;
            }
            if running.kill_at.is_some_and(|at| Instant::now() >= at) {
                // Files without a name go with who has them open.
                running.found.get_or_insert_with(|| self.places.look());
                sys::kill_all_others()?;
                running.kill_at = Some(Instant::now() + REAP_DEADLINE);
            }
        }
        running.found.get_or_insert_with(|| self.places.look());
        self.end_all(&mut running)?;
        Ok(running)
    }

    /// Waits for a signal, for output, or for the clock, which ends all at `kill_at`.
    fn wait(&self, kill_at: Option<Instant>) -> io::Result<Waited> {
        let log_due = self.log.as_ref().and_then(LogPump::due);
        let forwarder_due = self.forwarder.as_ref().and_then(Forwarder::due);
        let look_due = self.log.as_ref().and_then(|_| self.lookout.due());
        let until = [kill_at, log_due, forwarder_due, look_due].into_iter().flatten().min();
        let timeout = until.map(|at| timespec(at.saturating_duration_since(Instant::now())));

        let mut sources = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let outputs = self.log.iter().flat_map(LogPump::sources);
        sources.extend(outputs.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let connections = self.forwarder.iter().map(Forwarder::source);
        sources.extend(connections.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // Asked for nothing, a pipe still tells that its reader has gone; a file never does.
        let exit = kill_at.is_none().then(|| PollFd::new(&self.exit, PollFlags::empty()));
        sources.extend(exit);
        match poll(&mut sources, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(Waited::Woken),
            result => result?,
        };
        let is_deserted = sources.iter().any(|source| source.revents().contains(PollFlags::ERR));
        Ok(if is_deserted { Waited::Deserted } else { Waited::Woken })
    }

    fn take_signals(&self, running: &mut Running) -> io::Result<()> {
        while let Some(signal) = next_signal(&self.signals)? {
            match signal {
                libc::SIGCHLD => running.reap()?,
                libc::SIGTERM => running.terminate(self.stop_grace),
                END_AT_ONCE => running.kill_at = Some(Instant::now()),
                other if FORWARDED.contains(&other) => {
                    Signal::from_named_raw(other).into_iter().for_each(|it| running.forward(it));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends what the main process has left behind, and takes its last words.
    fn end_all(&mut self, running: &mut Running) -> io::Result<()> {
        sys::kill_all_others()?;
        let deadline = Instant::now() + REAP_DEADLINE;
        while running.reap_all()? && Instant::now() < deadline {
            let left = timespec(deadline.saturating_duration_since(Instant::now()));
            let mut sources = [PollFd::new(&self.signals, PollFlags::IN)];
            match poll(&mut sources, Some(&left)) {
                Err(Errno::INTR) => {}
                result => drop(result?),
            }
            while next_signal(&self.signals)?.is_some() {}
        }
        self.tenant.release_terminal();
        if let Some(log) = &mut self.log {
            log.finish();
        }
        self.tell_what_is_lost();
        if let Some(forwarder) = &mut self.forwarder {
            forwarder.finish(Instant::now() + ANSWERS_DEADLINE)?;
        }
        Ok(())
    }

    /// Says what the program writes beside its code, in time for somebody to do something about it.
    fn tell_what_will_be_lost(&mut self) {
        if self.log.is_none() || !self.lookout.is_due(Instant::now()) {
            return;
        }
        let (written, now) = (self.written(), Instant::now());
        let is_early = self.lookout.is_early(now);
        self.lookout.looked(!written.is_empty(), now);
        if let Some(log) = &self.log {
            log.note(&written.to_note());
        }
        if let (Some(log), false) = (&mut self.log, written.is_empty() || is_early) {
            let text = format!(
                "written beside the code, and gone when this container ends: {written}; {WAY_TO_KEEP}"
            );
            log.remark(&text);
        }
    }

    /// What lies in the layers by now.
    fn written(&self) -> Written {
        let mut written = Written::default();
        self.layers.iter().for_each(|layer| written.add_folder(&layer.written));
        written
    }

    /// Says what the program has written beside its code, once nothing more is.
    fn tell_what_is_lost(&mut self) {
        let written = self.written();
        if written.is_empty() {
            return;
        }
        let text = format!("gone with this container: {written}; {WAY_TO_KEEP}");
        match &mut self.log {
            Some(log) => log.remark(&text),
            // Nobody may listen any more.
            None if self.shares_output => drop(writeln!(io::stderr(), "ace: {text}")),
            None => {}
        }
    }

    fn write_record(&mut self, record: &ExitRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.exit.write_all(&line)?;
        match rustix::fs::fsync(&self.exit) {
            Err(Errno::INVAL) => Ok(()), // A pipe has nothing to sync.
            result => Ok(result?),
        }
    }
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    /// There may be something to do.
    Woken,
    /// Nobody is left to be told how the program ends.
    Deserted,
}

impl Running {
    /// Whether there is something to wait for: the main process, and of a group that was asked to end
    /// every process. A shell leaves sooner than what it has started.
    fn is_under_way(&self) -> bool {
        let is_asked = self.kill_at.is_some() && self.signal_target == SignalTarget::Group;
        self.ended.is_none() || is_asked && test_kill_process_group(self.main).is_ok()
    }

    /// Asks the program to end, and sets the time when it must have.
    fn terminate(&mut self, grace: Duration) {
        self.kill_at.get_or_insert(Instant::now() + grace);
        self.forward(Signal::TERM);
    }

    fn forward(&self, signal: Signal) {
        let sent = match self.signal_target {
            SignalTarget::Program => kill_process(self.main, signal),
            SignalTarget::Group => kill_process_group(self.main, signal),
        };
        // It has no group of its own yet, or has ended, which is what we wait for anyway.
        if sent.is_err() {
            let _ = kill_process(self.main, signal);
        }
    }

    /// Reaps what has ended.
    fn reap(&mut self) -> io::Result<()> {
        self.reap_all().map(drop)
    }

    /// Reaps what has ended; returns whether children are left.
    fn reap_all(&mut self) -> io::Result<bool> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.main => self.ended = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return Ok(true),
                Err(Errno::CHILD) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn record(&self) -> ExitRecord {
        ExitRecord {
            status: self.ended.and_then(WaitStatus::exit_status),
            signal: self.ended.and_then(WaitStatus::terminating_signal),
            asked: self.kill_at.is_some(),
            found: self.found.clone().unwrap_or_default(),
        }
    }
}

/// The number of the next signal that has come, if any has.
fn next_signal(signals: &OwnedFd) -> io::Result<Option<i32>> {
    let mut record = [0; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(signals.as_fd(), &mut record) {
        // The number is the record's first field.
        Ok(_) => Ok(record.first_chunk().map(|number| i32::from_ne_bytes(*number))),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn timespec(duration: Duration) -> Timespec {
    // A duration of more than 290 billion years waits for ever, which is as good.
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
