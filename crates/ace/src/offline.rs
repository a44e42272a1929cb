//! What `ace down` and `ace doctor` do while no engine listens.

use std::path::Path;

use ace_api::http::DoctorReport;
use anyhow::{Result, bail};
use async_trait::async_trait;

use crate::doctor;
use crate::engine::EngineFolder;
use crate::machine::Machine;

pub struct OfflineEngine;

#[async_trait]
impl ace_cli::Offline for OfflineEngine {
    async fn down(&self, data: &Path) -> Result<String> {
        if !data.join("engine.json").exists() {
            bail!(
                "{} is not the data folder of an engine; name it with --server unix:DATA/ace.sock",
                data.display()
            );
        }
        let mut engine = EngineFolder::open(data)?;
        let machine = Machine::set_up(&mut engine).await?;
        machine.tear_down().await?;
        Ok(format!("everything of the engine in {} is stopped; its data is kept", data.display()))
    }

    async fn doctor(&self) -> Result<DoctorReport> {
        Ok(doctor::report(&std::env::temp_dir()))
    }
}
