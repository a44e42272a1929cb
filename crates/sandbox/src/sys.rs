//! System calls that `rustix` lacks or calls unsafe: one small function each, safe from outside.
//!
//! Those that change the whole process (fork, signals, descriptors by number) are for the launcher
//! and init, which have one thread and own every descriptor they have.

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::mount::MountAttrFlags;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// The highest signal's number.
const LAST_SIGNAL: c_int = 64;

/// A set of signals as the kernel has it: a bit each.
const SIGNAL_SET_BYTES: usize = 8;

/// Of `asm-generic/socket.h`; `libc` does not name it yet.
const SO_PASSRIGHTS: c_int = 83;

/// Which side of a [`fork`] this is.
pub enum Fork {
    Parent { child: Pid },
    Child,
}

/// Splits this process in two; see fork(2). For a process of one thread, or a child that does nothing
/// but make system calls.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: a lock that a thread holds which the child lacks is, by this function's contract, one
    // that the child does not ask for.
    let pid = errno_result(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid).map_or(Fork::Child, |child| Fork::Parent { child }))
}

/// Leaves the namespaces named by `flags` for new ones; see unshare(2).
///
/// Errors: `EINVAL` for `FILES`, which would make descriptors of other threads dangle.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    if flags.contains(UnshareFlags::FILES) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the table of descriptors stays shared, which is all that the call asks for.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Becomes `program`; see execve(2). Returns only why it could not.
pub fn execve(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: both arrays end in null, and the strings they point to outlive the call.
    let result = errno_result(unsafe {
        libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr())
    });
    result.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOEXEC))
}

/// Makes `number` a copy of `fd` that survives execve; see dup2(2). What `number` was is closed:
/// nothing in this process may own it.
pub fn install_descriptor(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        return Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?);
    }
    // SAFETY: the call takes numbers only; by this function's contract nobody owns `number`.
    errno_result(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Closes every descriptor from `first` up; see close_range(2). Nothing in this process may own one
/// of them.
pub fn close_descriptors_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the call takes numbers only; by this function's contract nobody owns these.
    match errno_result(unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => close_one_by_one(first),
        result => result.map(drop),
    }
}

/// Makes every descriptor from `first` up close at execve. A kernel before 5.11 can't, and ours are
/// opened so anyway: this is for what a library might have opened otherwise.
pub fn close_on_exec_from(first: RawFd) {
    // SAFETY: the call takes numbers only and closes nothing now.
    let _ = errno_result(unsafe {
        libc::syscall(libc::SYS_close_range, first, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC)
    });
}

/// Keeps every signal pending that can be, for [`signal_descriptor`] to read.
pub fn block_signals() -> io::Result<()> {
    set_signal_mask(libc::SIG_SETMASK, &full_signal_set())
}

/// Lets every signal act again, each in its default way, as a program expects to find them.
pub fn reset_signals() -> io::Result<()> {
    // `struct sigaction` of the kernel, in zeroes: the default action, no flags, an empty mask. The
    // C library's function would refuse its own two signals, which a parent may have ignored.
    let default = [0_u64; 4];
    let old = ptr::null_mut::<u64>();
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: `default` outlives the call, which only reads it, and is as long as the kernel's
        // struct on every 64-bit architecture. SIGKILL and SIGSTOP fail; they can't be changed.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, old, SIGNAL_SET_BYTES)
        };
    }
    set_signal_mask(libc::SIG_UNBLOCK, &full_signal_set())
}

/// A descriptor that reads the blocked signals, without waiting; see signalfd(2).
pub fn signal_descriptor() -> io::Result<OwnedFd> {
    let signals = full_signal_set();
    // SAFETY: `signals` is initialised and outlives the call.
    let fd = errno_result(unsafe {
        libc::signalfd(-1, &raw const signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    })?;
    // SAFETY: the kernel has just made `fd` for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `mount`, which is attached nowhere, read-only, without device files and set-user-id
/// programs, and of owners as `namespace`, of users, maps them; see mount_setattr(2).
pub fn map_mount(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct mount_attr`.
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let set = MountAttrFlags::MOUNT_ATTR_IDMAP
        | MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let attributes = MountAttributes {
        set: u64::from(set.bits()),
        clear: 0,
        propagation: 0,
        user_namespace: u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
    };
    // SAFETY: the path is empty and static, `attributes` outlives the call, which only reads as much
    // of it as it is told, and both descriptors are open during the call.
    errno_result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// Gives up this process's controlling terminal, which `terminal` is; see ioctl_tty(2).
pub fn leave_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes no argument, and `terminal` is open during the call.
    errno_result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) }).map(drop)
}

/// Sends SIGKILL to every process that this one may signal, but itself. As process 1 of a container
/// these are all the others in it.
pub fn kill_all_others() -> io::Result<()> {
    // Anywhere but in a container of ours this would end the machine.
    if rustix::process::getpid() != Pid::INIT {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    // SAFETY: the call takes numbers only.
    match errno_result(unsafe { libc::kill(-1, libc::SIGKILL) }) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()), // Nobody is left.
        result => result.map(drop),
    }
}

/// Gives up what this process may have of real-time scheduling and of a class of I/O of its own.
pub fn schedule_as_usual() -> io::Result<()> {
    const OF_PROCESS: c_int = 1; // IOPRIO_WHO_PROCESS
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: `none` is a whole sched_param and outlives the call; 0 is this process.
    errno_result(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const none) })?;
    // SAFETY: the call takes numbers only; the last 0 is the class that follows the niceness.
    errno_result(unsafe { libc::syscall(libc::SYS_ioprio_set, OF_PROCESS, 0, 0) }).map(drop)
}

/// Leaves the session's keyring for a new, empty one; see keyctl(2).
pub fn join_new_keyring() -> io::Result<()> {
    let anonymous = ptr::null::<libc::c_char>();
    // SAFETY: a null name is allowed, and asks for an anonymous keyring.
    errno_result(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, anonymous)
    })
    .map(drop)
}

/// Ends this process at once with `status`, running nothing more of it.
pub fn exit_now(status: c_int) -> ! {
    // SAFETY: the call does not return, and needs nothing of this process.
    unsafe { libc::_exit(status) }
}

/// Sets whether `socket`, which is of a Unix address, takes descriptors from who is connected to it; see unix(7).
pub fn set_pass_rights(socket: BorrowedFd<'_>, takes: bool) -> io::Result<()> {
    let takes = c_int::from(takes);
    // SAFETY: `takes` outlives the call, and the kernel only reads as many bytes as it has.
    errno_result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const takes).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Gives the kernel back what the allocator has free; see malloc_trim(3). Other allocators than glibc's do it by themselves.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes the allocator's own locks, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The value, or `errno` where it is negative.
fn errno_result<T: PartialOrd + Default>(value: T) -> io::Result<T> {
    if value < T::default() { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// The strings as C takes an array of them: pointers, and a null.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// [`close_descriptors_from`] for kernels before 5.9.
fn close_one_by_one(first: RawFd) -> io::Result<()> {
    let open = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect::<Vec<RawFd>>();
    for number in open.into_iter().filter(|number| *number >= first) {
        // SAFETY: by the caller's contract nobody owns it. The listing's own, closed by now, fails.
        unsafe { libc::close(number) };
    }
    Ok(())
}

fn full_signal_set() -> libc::sigset_t {
    // SAFETY: a signal set is plain numbers, for which zeroes are a value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the call only writes `set`, which outlives it.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

fn set_signal_mask(how: c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is initialised and outlives the call, which only reads it; the old mask is not
    // asked for.
    errno_result(unsafe { libc::sigprocmask(how, set, ptr::null_mut()) }).map(drop)
}
