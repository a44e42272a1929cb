//! Power that fails: nothing that the kernel had not written yet is there afterwards.
//!
//! `ACE_POWER_ROUNDS=100` makes the rounds as many.

use ace_testkit::Engine;
use anyhow::Result;

use crate::rounds::{Act, Blow, Rounds};

const ROUNDS: u64 = 4;
const DISK_MIB: u64 = 3 << 10;

#[test]
fn what_was_acknowledged_outlives_a_loss_of_power() -> Result<()> {
    use Act::*;
    const ACTS: [Act; 9] =
        [Redeploy, Configure, Rollback, Destroy, FirstDeploy, Scale, Restart, Domains, Stop];
    let number = std::env::var("ACE_POWER_ROUNDS").ok().map_or(Ok(ROUNDS), |n| n.parse())?;
    let mut engine = Engine::start_on_small_disk(env!("CARGO_BIN_EXE_ace"), DISK_MIB)?;
    // What the kit put there was never said to be safe.
    engine.sync()?;
    if !engine.cut_power()? {
        eprintln!("skipped: this kernel can't make an ext4 forget what it has not written yet");
        return Ok(());
    }
    engine.start_server()?;
    let mut rounds = Rounds::begin(engine)?;
    (0..number)
        .zip(ACTS.into_iter().cycle())
        .try_for_each(|(number, act)| rounds.round(number, act, Blow::PowerCut))
}
