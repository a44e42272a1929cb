//! Runs a small tool of the host's (`nft`, `mkfs.ext4`, `systemctl`) with a deadline.
//!
//! Input and output go by way of memory files, so a tool that writes much, or reads nothing, can't
//! block us, and no thread is needed to serve it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Where administrators' tools are, which a user's `PATH` may lack.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// What is kept of a tool's complaint.
const COMPLAINT_MAX: usize = 2048;

/// One program, and where a machine gets it from.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub program: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("{program} is not on this machine; install the package {package}")]
    Missing { program: &'static str, package: &'static str },
    #[error("could not run {program}")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} was not done within {} s", deadline.as_secs())]
    TimedOut { program: &'static str, deadline: Duration },
    #[error("{program} failed ({status}): {complaint}")]
    Failed { program: &'static str, status: ExitStatus, complaint: String },
}

impl Tool {
    pub const fn new(program: &'static str, package: &'static str) -> Self {
        Self { program, package }
    }

    /// The program's path; [`ToolError::Missing`] where there is none.
    pub fn path(&self) -> Result<PathBuf, ToolError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .chain(FOLDERS.map(PathBuf::from))
            .map(|folder| folder.join(self.program))
            .find(|candidate| is_program(candidate))
            .ok_or(ToolError::Missing { program: self.program, package: self.package })
    }

    /// Runs it with `input` and waits; returns what it printed.
    pub fn run(
        &self,
        arguments: &[&str],
        input: &[u8],
        deadline: Duration,
    ) -> Result<Vec<u8>, ToolError> {
        self.run_allowing(arguments, input, deadline, |status| status.success())
    }

    /// As [`Self::run`], for tools whose status tells more than success; `good` judges it.
    pub fn run_allowing(
        &self,
        arguments: &[&str],
        input: &[u8],
        deadline: Duration,
        good: impl Fn(ExitStatus) -> bool,
    ) -> Result<Vec<u8>, ToolError> {
        let path = self.path()?;
        let failed = |source| ToolError::Run { program: self.program, source };
        let mut output = memory_file(&[]).map_err(failed)?;
        let mut complaint = memory_file(&[]).map_err(failed)?;
        let mut child = Command::new(path)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(memory_file(input).map_err(failed)?)
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(complaint.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let status = wait(&mut child, deadline)
            .map_err(failed)?
            .ok_or(ToolError::TimedOut { program: self.program, deadline })?;
        if good(status) {
            return read_all(&mut output).map_err(failed);
        }
        let complaint = first_of(&read_all(&mut complaint).map_err(failed)?);
        Err(ToolError::Failed { program: self.program, status, complaint })
    }

    /// A command for a longer-lived run, its standard streams closed.
    pub fn command(&self) -> Result<Command, ToolError> {
        let mut command = Command::new(self.path()?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }
}

/// Waits for `child`'s end; `None` when `deadline` had passed and it was killed.
fn wait(child: &mut Child, deadline: Duration) -> io::Result<Option<ExitStatus>> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let timeout = Timespec::try_from(deadline).map_err(io::Error::other)?;
    let mut ready = [PollFd::new(&pidfd, PollFlags::IN)];
    let ended = rustix::io::retry_on_intr(|| poll(&mut ready, Some(&timeout)))?;
    if ended == 0 {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok((ended != 0).then_some(status))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn memory_file(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("tool", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn read_all(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    Ok(content)
}

fn first_of(complaint: &[u8]) -> String {
    let kept = &complaint[..complaint.len().min(COMPLAINT_MAX)];
    String::from_utf8_lossy(kept).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[test]
    fn a_tool_reads_its_input_and_its_output_is_returned() -> Result<(), ToolError> {
        assert_eq!(Tool::new("cat", "coreutils").run(&[], b"words", DEADLINE)?, b"words");
        Ok(())
    }

    #[test]
    fn a_failure_carries_the_tools_own_words() {
        let error = Tool::new("ls", "coreutils").run(&["/no/such/folder"], &[], DEADLINE);
        assert!(error.is_err_and(|error| error.to_string().contains("No such file")));
    }

    #[test]
    fn a_tool_that_hangs_is_killed() {
        let error = Tool::new("sleep", "coreutils").run(&["60"], &[], Duration::from_millis(20));
        assert!(matches!(error, Err(ToolError::TimedOut { .. })), "{error:?}");
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let error = Tool::new("no-such-tool", "nothing").path();
        assert!(error.is_err_and(|error| error.to_string().ends_with("the package nothing")));
    }
}
