//! What `ace down` and `ace doctor` do while no engine listens.

use std::path::{Path, PathBuf};

use ace_api::http::DoctorReport;
use ace_sandbox::volume::Store;
use anyhow::{Result, bail};
use async_trait::async_trait;

use crate::config_file::ConfigFile;
use crate::engine::EngineFolder;
use crate::machine::Machine;
use crate::{doctor, server};

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
        let machine = Machine::set_up(&mut engine, Store::default()).await?;
        machine.tear_down().await?;
        Ok(format!("everything of the engine in {} is stopped; its data is kept", data.display()))
    }

    async fn doctor(&self) -> Result<DoctorReport> {
        let config = ConfigFile::read(None)?;
        let data = config.setting("data")?.unwrap_or_else(|| PathBuf::from(server::DATA));
        // Where there has been no engine yet, some folder.
        let scratch = if data.is_dir() { data } else { std::env::temp_dir() };
        Ok(doctor::report(&scratch, config.volumes))
    }
}
