//! The system calls that a tenant's processes may make.
//!
//! An allow-list: what an unprivileged program needs, as container runtimes commonly grant it, less
//! what has been a way out of containers (new mounts, namespaces, io_uring, keyrings, tracing other
//! processes), what takes from a store that the whole machine shares (the contexts of the older
//! asynchronous I/O, `io_setup`, of which there are 65,536), and what has everybody's files written (`sync`, and
//! `syncfs`, since some of a container's files are on the host's disk). What is not on it fails with `EPERM`. Calls that came after this list was made fail
//! with `ENOSYS` instead, as does clone3, whose flags a filter can't see: C libraries then use what
//! they used before.
//!
//! Sockets have a family, and those of the internet a protocol, that is listed: each other is code of the kernel's that
//! nobody here needs. No filter is added by those who are under this one: see [`refuse_further_filters`]. The limit of core files can't be changed, which looks as if it had been: see [`keep_core_limit`].
//!
//! The 32-bit entry of the kernel ends the process, and the numbers of the x32 one are on no list.

mod calls;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

/// Protocols of the internet's families: the default, ping, TCP, UDP, ping of IPv6, MPTCP.
const INTERNET_PROTOCOLS: [i32; 6] = [
    libc::IPPROTO_IP,
    libc::IPPROTO_ICMP,
    libc::IPPROTO_TCP,
    libc::IPPROTO_UDP,
    libc::IPPROTO_ICMPV6,
    libc::IPPROTO_MPTCP,
];

/// Opcodes of a filter, from `linux/bpf_common.h`: load a word, jumps, return.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` has the call's number, and the lower half of its first argument. On the
/// machines that there are filters for, the lower half comes first.
const NUMBER_OFFSET: u32 = 0;
const ARGUMENTS_OFFSET: u32 = 16;

/// Options of sockets that attach a program.
const PROGRAM_OPTIONS: [i32; 4] = [
    libc::SO_ATTACH_FILTER,
    libc::SO_ATTACH_BPF,
    libc::SO_ATTACH_REUSEPORT_CBPF,
    libc::SO_ATTACH_REUSEPORT_EBPF,
];

/// Options of the internet's sockets that join a group, or set whom it takes from. Source: `linux/in.h`, which has those
/// from 42 up for both families.
const GROUP_OPTIONS: [i32; 6] =
    [libc::IP_ADD_MEMBERSHIP, libc::IP_ADD_SOURCE_MEMBERSHIP, IP_MSFILTER, 42, 46, 48];
const GROUP_OPTIONS_OF_IPV6: [i32; 5] = [libc::IPV6_ADD_MEMBERSHIP, IPV6_JOIN_ANYCAST, 42, 46, 48];
const IP_MSFILTER: i32 = 41;
/// Options that put another protocol on top of TCP, and have datagrams taken for IPsec's or L2TP's.
const TCP_ULP: i32 = 31;
const UDP_ENCAP: i32 = 100;
const IPV6_JOIN_ANYCAST: i32 = 27;

/// Flags of clone(2) that make a namespace.
const NAMESPACE_FLAGS: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Commands of ioctl(2) that put input into a terminal, as if typed by who reads it.
const TERMINAL_INPUT: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// Commands that make a Btrfs subvolume or snapshot, in two versions each: any user may, where it can make a folder,
/// and what's in one doesn't count in the quota of the subvolume around it. Source: `linux/btrfs.h`.
const BTRFS_NEW_SUBVOLUMES: [u64; 4] = [0x5000_940E, 0x5000_9418, 0x5000_9401, 0x5000_9417];

/// What prctl(2) must not be asked for: a filter, and a core for tasks of one's own choice.
const REFUSED_OF_PRCTL: [i32; 2] = [libc::PR_SET_SECCOMP, PR_SCHED_CORE];
const PR_SCHED_CORE: i32 = 62;

/// What personality(2) may be asked for: the plain one, and which it is.
const PERSONALITIES: [u64; 2] = [0, 0xffff_ffff];

/// A compiled filter.
pub struct Filter {
    /// Installed in this order. The kernel asks the last one first, and of equal verdicts takes the
    /// one that came first.
    programs: [BpfProgram; 4],
}

impl Filter {
    pub fn compile() -> io::Result<Self> {
        let allow_list = allow_list().map_err(io::Error::other)?;
        Ok(Self {
            // The last one refuses to have more.
            programs: [allow_list, unknown_calls(), keep_core_limit(), refuse_further_filters()],
        })
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
fn conditional_rules() -> Result<[(i64, Vec<SeccompRule>); 8], seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    Ok([
        (libc::SYS_clone, vec![rule([condition(0, MaskedEq(NAMESPACE_FLAGS), 0)?])?]),
        (
            libc::SYS_personality,
            PERSONALITIES
                .iter()
                .map(|allowed| rule([condition(0, Eq, *allowed)?]))
                .collect::<Result<_, _>>()?,
        ),
        (libc::SYS_socket, socket_rules()?),
        (libc::SYS_socketpair, vec![rule([condition(0, Eq, unsigned(libc::AF_UNIX))?])?]),
        (libc::SYS_setsockopt, option_rules()?),
        (libc::SYS_ioctl, vec![ioctl_rule()?]),
        // Pages that the host's owner has put aside for a program of his, which no limit of memory counts.
        (libc::SYS_mmap, vec![rule([condition(3, MaskedEq(unsigned(libc::MAP_HUGETLB)), 0)?])?]),
        (
            libc::SYS_memfd_create,
            vec![rule([condition(1, MaskedEq(u64::from(libc::MFD_HUGETLB)), 0)?])?],
        ),
    ])
}

/// All that a device or file takes, but for what no wall behind this filter would stop.
fn ioctl_rule() -> Result<SeccompRule, seccompiler::BackendError> {
    let refused = TERMINAL_INPUT.into_iter().chain(BTRFS_NEW_SUBVOLUMES);
    let conditions: Result<Vec<_>, _> =
        refused.map(|command| condition(1, SeccompCmpOp::Ne, command)).collect();
    SeccompRule::new(conditions?)
}

/// Families of sockets, with their protocols where it matters.
fn socket_rules() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let of = |family: i32, protocol: i32| {
        let equal = |argument, value| condition(argument, SeccompCmpOp::Eq, unsigned(value));
        rule([equal(0, family)?, equal(2, protocol)?])
    };
    let mut rules = vec![
        rule([condition(0, SeccompCmpOp::Eq, unsigned(libc::AF_UNIX))?])?,
        // To list its own interfaces; the others are ways into all of the kernel.
        of(libc::AF_NETLINK, libc::NETLINK_ROUTE)?,
    ];
    for protocol in INTERNET_PROTOCOLS {
        rules.push(of(libc::AF_INET, protocol)?);
        rules.push(of(libc::AF_INET6, protocol)?);
    }
    Ok(rules)
}

/// Options of sockets: all but those that give the kernel a program to translate, for which it has room for the whole
/// machine, so that where it's taken no filter of anybody's is installed any more, such as this one; and all but those that
/// join a group of receivers, whose list the kernel goes through each time, with a lock that setting up anybody's network needs;
/// and all but those that lead into rarely used code of the kernel's.
fn option_rules() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, Ne};
    let refused = [
        (libc::SOL_SOCKET, &PROGRAM_OPTIONS[..]),
        (libc::IPPROTO_IP, &GROUP_OPTIONS),
        (libc::IPPROTO_IPV6, &GROUP_OPTIONS_OF_IPV6),
        (libc::IPPROTO_TCP, &[TCP_ULP]),
        (libc::IPPROTO_UDP, &[UDP_ENCAP]),
    ];
    let of_level = |(level, names): (i32, &[i32])| {
        let others = names.iter().map(|name| condition(2, Ne, unsigned(*name)));
        let conditions = std::iter::once(condition(1, Eq, unsigned(level))).chain(others);
        SeccompRule::new(conditions.collect::<Result<_, _>>()?)
    };
    let other_levels = refused.map(|(level, _)| condition(1, Ne, unsigned(level)));
    let other_levels = SeccompRule::new(other_levels.into_iter().collect::<Result<_, _>>()?);
    refused.into_iter().map(of_level).chain([other_levels]).collect()
}

/// The filter that answers what would set the limit of core files as if it had, and leaves it.
///
/// At 0, to which any process may lower it, the kernel gives a core to the host's handler all the same, if
/// there is one, which is root's; at 1 it does not. Programs that lower it want no core, and get none; to be
/// refused would end some of them.
fn keep_core_limit() -> BpfProgram {
    let load = |k| sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k };
    let equal = |k, jt, jf| sock_filter { code: JUMP_IF_EQUAL, jt, jf, k };
    let argument = |number: u32| ARGUMENTS_OFFSET + 8 * number;
    let done = libc::SECCOMP_RET_ERRNO; // With no error.
    vec![
        load(NUMBER_OFFSET),
        equal(calls::bits(libc::SYS_setrlimit), 2, 0),
        equal(calls::bits(libc::SYS_prlimit64), 3, 0),
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
        // setrlimit(resource, limit)
        load(argument(0)),
        equal(libc::RLIMIT_CORE, 7, 6),
        // prlimit64(pid, resource, limit, old): without a limit, it asks.
        load(argument(1)),
        equal(libc::RLIMIT_CORE, 0, 4),
        load(argument(2)),
        equal(0, 0, 3),
        load(argument(2) + 4),
        equal(0, 0, 1),
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: done },
    ]
}

/// The filter that refuses to install another, and what else prctl(2) must not do.
///
/// Each filter is a program that the kernel translates, for which it has room for the whole machine: where that is taken,
/// no container can be started any more. And where two threads share a core, tasks that choose whom they share it with leave
/// the other one idle, beyond what their limit of processor time counts.
fn refuse_further_filters() -> BpfProgram {
    let load = |k| sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k };
    let equal = |k, jt, jf| sock_filter { code: JUMP_IF_EQUAL, jt, jf, k };
    let give = |k| sock_filter { code: RETURN, jt: 0, jf: 0, k };
    let [filter, core] = REFUSED_OF_PRCTL.map(i32::unsigned_abs);
    vec![
        load(NUMBER_OFFSET),
        equal(calls::bits(libc::SYS_seccomp), 5, 0),
        equal(calls::bits(libc::SYS_prctl), 0, 3),
        load(ARGUMENTS_OFFSET),
        equal(filter, 2, 0),
        equal(core, 1, 0),
        give(libc::SECCOMP_RET_ALLOW),
        give(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
    ]
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
