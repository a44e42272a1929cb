//! How process 1 gives up what it needed to build the container.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags, capabilities,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities, set_name,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use ace_types::IdRange;

use crate::failure::Step;
use crate::launcher::{Ended, Word};
use crate::sys;

/// What init keeps, in its own user namespace: to signal the tenant's processes, and to become the
/// tenant in the child that runs the program.
const KEPT: CapabilitySet =
    CapabilitySet::KILL.union(CapabilitySet::SETUID).union(CapabilitySet::SETGID);

/// Enters a user namespace as its user 0. It's the last namespace to be made, so that it owns none
/// of the others.
pub fn enter_user_namespace(launcher: &UnixStream, ids: IdRange) -> Result<(), Ended> {
    own_what_is_made(ids.host_id(IdRange::INIT)).step("become the user namespace's owner")?;
    sys::unshare(UnshareFlags::NEWUSER).step("make a user namespace")?;
    Word::Entered.send(launcher).map_err(|_| Ended::Silent)?;
    Word::Mapped.expect(launcher).map_err(|_| Ended::Silent)?;
    become_user(IdRange::INIT).step("become the container's root")?;
    Ok(())
}

/// Leaves init with [`KEPT`], out of reach of the tenant's processes, and with nothing that a
/// program it starts could get back.
pub fn become_unprivileged() -> io::Result<()> {
    set_name(c"ace-init")?; // In the host's list of processes; else it is a descriptor's number.
    // Nobody may trace it, or read its memory and descriptors in /proc.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_no_new_privs(true)?;
    clear_bounding_set()?;
    clear_ambient_capability_set()?;
    keep_capabilities(KEPT)
}

/// Becomes `user` of the host, with root's capabilities still in effect.
///
/// What a namespace's users have of inotify instances, queued signals and the like is counted for
/// the namespace's owner as well. Were that root, one container could take all that root may have,
/// on the host and for every other container.
fn own_what_is_made(user: u32) -> io::Result<()> {
    let user = Uid::from_raw(user);
    // Root stays the saved user: without any root the permitted capabilities would go, too.
    set_thread_res_uid(user, user, Uid::ROOT)?;
    let kept = capabilities(None)?;
    Ok(set_capabilities(None, CapabilitySets { effective: kept.permitted, ..kept })?)
}

/// Turns the child that is to run the tenant's program into the tenant.
pub fn become_tenant() -> io::Result<()> {
    become_user(IdRange::APP)?;
    keep_capabilities(CapabilitySet::empty())
}

fn become_user(id: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}

/// Gives up every capability that this kernel knows, for all programs to come.
fn clear_bounding_set() -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            Err(rustix::io::Errno::INVAL) => break, // The last one was the last there is.
            result => result?,
        }
    }
    Ok(())
}

fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}
