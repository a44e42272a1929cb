//! Which processes the kernel has ended in the engine's containers for want of memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ace_api::MemoryKill;
use ace_sandbox::kernel_log::KernelLog;
use ace_types::{EngineId, InstanceId, error_chain};

/// Reads the kernel's log whenever somebody asks for it.
#[derive(Debug)]
pub struct Victims {
    engine: EngineId,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// `None` where this engine may not see it.
    log: Option<KernelLog>,
    /// The last of each container that nobody has asked for yet.
    last: BTreeMap<InstanceId, MemoryKill>,
}

impl Victims {
    /// Those of `engine` from now on.
    pub fn new(engine: EngineId) -> Self {
        let log = KernelLog::open().inspect_err(|error| {
            tracing::info!(%error, "the kernel's log can't be read; memory kills have no names");
        });
        let known = Known { log: log.ok(), last: BTreeMap::new() };
        Self { engine, known: Mutex::new(known) }
    }

    /// The last process that was ended in the container of `instance` since this was asked before.
    /// May block for a moment.
    pub fn last_of(&self, instance: &InstanceId) -> Option<MemoryKill> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let kills = known.log.as_mut().map(KernelLog::kills)?.unwrap_or_else(|error| {
            tracing::debug!(error = %error_chain(&error), "could not read the kernel's log");
            Vec::new()
        });
        for kill in kills {
            // Containers of builds have other names.
            let container = kill.container(&self.engine).and_then(|name| name.parse().ok());
            let Some(container) = container else { continue };
            let (process, memory_bytes) = (kill.process, kill.resident_bytes);
            known.last.insert(container, MemoryKill { process, memory_bytes });
        }
        known.last.remove(instance)
    }

    /// `instance` is gone.
    pub fn forget(&self, instance: &InstanceId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).last.remove(instance);
    }
}
