//! The system calls that a tenant's processes may make.
//!
//! An allow-list: what an unprivileged program needs, as container runtimes commonly grant it, less
//! what has been a way out of containers (new mounts, namespaces, io_uring, keyrings, tracing other
//! processes) and what takes from a store that the whole machine shares (the contexts of the older
//! asynchronous I/O, `io_setup`, of which there are 65,536). What is not on it fails with `EPERM`. Calls that came after this list was made fail
//! with `ENOSYS` instead, as does clone3, whose flags a filter can't see: C libraries then use what
//! they used before.
//!
//! The 32-bit entry of the kernel ends the process, and the numbers of the x32 one are on no list.

mod calls;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

/// Opcodes of a filter, from `linux/bpf_common.h`: load a word, jumps, return.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` has the call's number.
const NUMBER_OFFSET: u32 = 0;

/// Flags of clone(2) that make a namespace.
const NAMESPACE_FLAGS: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// What personality(2) may be asked for: the plain one, and which it is.
const PERSONALITIES: [u64; 2] = [0, 0xffff_ffff];

/// A compiled filter.
pub struct Filter {
    /// Installed in this order. The kernel asks the last one first, and of equal verdicts takes the
    /// one that came first.
    programs: [BpfProgram; 2],
}

impl Filter {
    pub fn compile() -> io::Result<Self> {
        Ok(Self { programs: [allow_list().map_err(io::Error::other)?, unknown_calls()] })
    }

    /// Puts the filter on this process and all that it will start, for ever.
    pub fn install(&self) -> io::Result<()> {
        self.programs.iter().try_for_each(|program| apply_filter(program)).map_err(io::Error::other)
    }
}

/// The filter that allows what is listed, and refuses all else.
fn allow_list() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls::ALLOWED.iter().map(|number| (*number, Vec::new())).collect();
    rules.extend(conditional_rules()?);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
}

/// Calls that are allowed with some arguments only: any of a call's rules does.
fn conditional_rules() -> Result<[(i64, Vec<SeccompRule>); 5], seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let family = |family: i32| condition(0, Eq, unsigned(family));
    Ok([
        (libc::SYS_clone, vec![rule([condition(0, MaskedEq(NAMESPACE_FLAGS), 0)?])?]),
        (
            libc::SYS_personality,
            PERSONALITIES
                .iter()
                .map(|allowed| rule([condition(0, Eq, *allowed)?]))
                .collect::<Result<_, _>>()?,
        ),
        (
            libc::SYS_socket,
            vec![
                rule([family(libc::AF_UNIX)?])?,
                rule([family(libc::AF_INET)?])?,
                rule([family(libc::AF_INET6)?])?,
                // To list its own interfaces; the others are ways into all of the kernel.
                rule([
                    family(libc::AF_NETLINK)?,
                    condition(2, Eq, unsigned(libc::NETLINK_ROUTE))?,
                ])?,
            ],
        ),
        (libc::SYS_socketpair, vec![rule([family(libc::AF_UNIX)?])?]),
        (
            libc::SYS_ioctl,
            // Both put input into a terminal, as if typed by who reads it.
            vec![rule([condition(1, Ne, libc::TIOCSTI)?, condition(1, Ne, libc::TIOCLINUX)?])?],
        ),
    ])
}

/// The filter that makes calls younger than the list, and clone3, look unknown to the kernel.
fn unknown_calls() -> BpfProgram {
    let clone3 = calls::bits(libc::SYS_clone3);
    let newest = calls::bits(calls::NEWEST_KNOWN);
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    vec![
        sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: NUMBER_OFFSET },
        sock_filter { code: JUMP_IF_GREATER, jt: 1, jf: 0, k: newest },
        sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: clone3 },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: unknown },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ]
}

fn rule<const N: usize>(
    conditions: [SeccompCondition; N],
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.into())
}

/// A condition on the lower half of an argument, which is all that the kernel looks at in these.
fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn unsigned(value: i32) -> u64 {
    u64::from(value.unsigned_abs())
}
