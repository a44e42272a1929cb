//! The most that tenants may ask for: what an operator allows one app, and all apps of one tenant
//! together. Limits are what an app has; these bound what it can be given.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Bytes, Limit, LimitKey, Limits};

/// What may be asked for. The default allows whatever `app.yaml` can say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ceilings {
    pub app: AppCeilings,
    pub tenant: TenantCeilings,
}

/// The most for one app. Limits are of each of its instances.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AppCeilings {
    pub limits: BTreeMap<LimitKey, Limit>,
    pub volume: Option<Bytes>,
    pub instances: Option<u16>,
}

/// The most for all apps of one tenant together. Memory and cores are those of all instances that
/// are meant to run, by their limits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TenantCeilings {
    pub apps: Option<u64>,
    pub memory: Option<Bytes>,
    pub cpu_millicores: Option<u64>,
    pub volume: Option<Bytes>,
}

/// What one app has or asks for.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    pub limits: &'a Limits,
    pub volume: Option<Bytes>,
    pub instances: u16,
    /// Whether its instances are meant to run.
    pub runs: bool,
}

/// More was asked for than is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AboveCeiling {
    #[error(
        "{key}: {asked} is more than an app may have here, which is {most}; ask for less, or have \
         whoever runs the engine raise `{key}` of [app] in its configuration"
    )]
    App { key: &'static str, asked: String, most: String },
    #[error(
        "{key}: with this, the apps of the tenant would have {asked} together, and may have \
         {most}; ask for less, stop or destroy an app, or have whoever runs the engine raise \
         `{key}` of [tenant] in its configuration"
    )]
    Tenant { key: &'static str, asked: String, most: String },
}

impl Ceilings {
    /// What suits a machine with so much memory, so many cores and a disk of that size: no app can be
    /// given more than half of the memory, all cores, a tenth of the disk for its volume and a hundredth for its log; no
    /// tenant more than half of the disk for volumes. What every app has by default is allowed anywhere.
    pub fn for_machine(memory: Bytes, cores: u32, disk: Bytes) -> Self {
        let usual = Limits::for_app();
        let limits = [
            Limit::Memory(Bytes(memory.0 / 2).max(usual.memory)),
            Limit::Cpu(cores.saturating_mul(1000).max(usual.cpu_millicores)),
            Limit::Log(Bytes(disk.0 / 100).max(usual.log)),
        ];
        let limits = limits.map(|limit| (limit.key(), limit)).into();
        let volume = Some(Bytes(disk.0 / 10).max(Bytes::gib(1)));
        Self {
            app: AppCeilings { limits, volume, instances: None },
            tenant: TenantCeilings {
                volume: Some(Bytes(disk.0 / 2).max(Bytes::gib(1))),
                ..TenantCeilings::default()
            },
        }
    }

    /// Whether an app may have `claim` where its tenant has `others` besides.
    pub fn check<'a>(
        &self,
        claim: Claim<'_>,
        others: impl Iterator<Item = Claim<'a>> + Clone,
    ) -> Result<(), AboveCeiling> {
        self.app.check(claim)?;
        self.tenant.check(claim, others)
    }
}

impl AppCeilings {
    fn check(&self, claim: Claim<'_>) -> Result<(), AboveCeiling> {
        for (key, most) in &self.limits {
            let asked = Limit::of(claim.limits, *key);
            if asked.is_above(*most) {
                return Err(above_app(key.name(), asked, most));
            }
        }
        if let (Some(asked), Some(most)) = (claim.volume, self.volume)
            && asked > most
        {
            return Err(above_app("volume", asked, most));
        }
        match self.instances {
            Some(most) if claim.instances > most => {
                Err(above_app("instances", claim.instances, most))
            }
            _ => Ok(()),
        }
    }
}

impl TenantCeilings {
    fn check<'a>(
        &self,
        claim: Claim<'_>,
        others: impl Iterator<Item = Claim<'a>> + Clone,
    ) -> Result<(), AboveCeiling> {
        let sum = |of: fn(&Claim<'_>) -> u64| {
            of(&claim).saturating_add(others.clone().map(|other| of(&other)).sum::<u64>())
        };
        let bytes = |number: u64| Bytes(number).to_string();
        let cores = |number: u64| (number as f64 / 1e3).to_string();
        let count = |number: u64| number.to_string();
        above_tenant("apps", sum(|_| 1), self.apps, count)?;
        above_tenant("memory", sum(memory), self.memory.map(|most| most.0), bytes)?;
        above_tenant("cpu", sum(cpu_millicores), self.cpu_millicores, cores)?;
        above_tenant("volume", sum(volume), self.volume.map(|most| most.0), bytes)
    }
}

fn memory(claim: &Claim<'_>) -> u64 {
    running(claim).saturating_mul(claim.limits.memory.0)
}

fn cpu_millicores(claim: &Claim<'_>) -> u64 {
    running(claim).saturating_mul(claim.limits.cpu_millicores.into())
}

/// A volume is there whether its app runs or not.
fn volume(claim: &Claim<'_>) -> u64 {
    claim.volume.map_or(0, |size| size.0)
}

fn running(claim: &Claim<'_>) -> u64 {
    if claim.runs { claim.instances.into() } else { 0 }
}

fn above_app(key: &'static str, asked: impl fmt::Display, most: impl fmt::Display) -> AboveCeiling {
    AboveCeiling::App { key, asked: asked.to_string(), most: most.to_string() }
}

fn above_tenant(
    key: &'static str,
    asked: u64,
    most: Option<u64>,
    show: impl Fn(u64) -> String,
) -> Result<(), AboveCeiling> {
    match most {
        Some(most) if asked > most => {
            Err(AboveCeiling::Tenant { key, asked: show(asked), most: show(most) })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Ceilings {
        Ceilings::for_machine(Bytes::gib(4), 2, Bytes::gib(40))
    }

    fn claim(limits: &Limits) -> Claim<'_> {
        Claim { limits, volume: None, instances: 1, runs: true }
    }

    #[test]
    fn what_every_app_has_is_allowed_on_the_smallest_machine() {
        let limits = Limits::for_app();
        let tiny = Ceilings::for_machine(Bytes::mib(256), 1, Bytes::gib(2));
        assert_eq!(tiny.check(claim(&limits), [].into_iter()), Ok(()));
    }

    #[test]
    fn no_app_gets_more_than_its_part_of_the_machine() {
        let limits = Limits { memory: Bytes::gib(3), ..Limits::for_app() };
        let refused = small().check(claim(&limits), [].into_iter()).unwrap_err().to_string();
        assert!(refused.starts_with("memory: 3G is more than an app may have here, which is 2G"));
        let limits = Limits::for_app();
        let large = Claim { volume: Some(Bytes::gib(5)), ..claim(&limits) };
        assert!(small().check(large, [].into_iter()).is_err());
    }

    #[test]
    fn a_body_without_bound_is_above_any() {
        let most = Limit::Body(Some(Bytes::gib(1)));
        let app = AppCeilings { limits: [(most.key(), most)].into(), ..AppCeilings::default() };
        let ceilings = Ceilings { app, ..Ceilings::default() };
        let limits = Limits { body: None, ..Limits::for_app() };
        assert!(ceilings.check(claim(&limits), [].into_iter()).is_err());
        assert!(ceilings.check(claim(&Limits::for_app()), [].into_iter()).is_ok());
    }

    #[test]
    fn a_tenants_sum_counts_what_is_meant_to_run_and_every_volume() {
        let tenant = TenantCeilings {
            memory: Some(Bytes::gib(1)),
            volume: Some(Bytes::gib(2)),
            ..TenantCeilings::default()
        };
        let ceilings = Ceilings { tenant, ..Ceilings::default() };
        let limits = Limits::for_app();
        let (running, stopped) = (claim(&limits), Claim { runs: false, ..claim(&limits) });
        assert!(ceilings.check(running, [running, stopped].into_iter()).is_ok());
        let refused = ceilings.check(running, [running, running].into_iter()).unwrap_err();
        assert!(refused.to_string().contains("1536M together, and may have 1G"), "{refused}");
        let with_volume = Claim { volume: Some(Bytes::gib(1)), ..stopped };
        assert!(ceilings.check(with_volume, [with_volume].into_iter()).is_ok());
        assert!(ceilings.check(with_volume, [with_volume, with_volume].into_iter()).is_err());
    }
}
