//! What the operator chose, and the names and places that follow from it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ace_types::{AppName, BuildId, Ceilings, HostName, IdRange, NameError};

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// The engine's data folder.
    pub data: PathBuf,
    /// An app answers at `NAME.DOMAIN`.
    pub domain: HostName,
    /// The port that apps' visitors use, which stands in URLs.
    pub public_port: u16,
    /// The user ids that the engine may hand out, by the range's number. The order must be the same
    /// whenever the engine starts on this data folder.
    pub id_ranges: Vec<IdRange>,
    /// How long an instance that is asked to stop may take.
    pub stop_grace: Duration,
    /// Builds that may run at once.
    pub builds_max: usize,
    /// What apps and tenants may have at most.
    pub ceilings: Ceilings,
    /// How often the Pythons of all apps are looked at.
    pub python_check: Duration,
}

impl ControlConfig {
    /// Range number `index`.
    pub fn id_range(&self, index: u32) -> Option<IdRange> {
        self.id_ranges.get(usize::try_from(index).ok()?).copied()
    }

    /// The host name of `app`.
    ///
    /// Errors: [`NameError::Long`] where the domain leaves no room for the name.
    pub fn host(&self, app: &AppName) -> Result<HostName, NameError> {
        format!("{app}.{}", self.domain).parse()
    }

    /// Where `app` answers: `http://shop.localhost:8080`.
    pub fn url(&self, app: &AppName) -> String {
        match self.public_port {
            80 => format!("http://{app}.{}", self.domain),
            port => format!("http://{app}.{}:{port}", self.domain),
        }
    }

    /// The image of the app's volume, whether it has one or not.
    pub fn volume(&self, app: &AppName) -> PathBuf {
        self.data.join("volumes").join(format!("{app}.img"))
    }

    /// Whether there is a volume at `image`: that file, or the folder beside it that one is instead.
    pub fn is_volume(image: &Path) -> bool {
        image.exists() || image.with_extension("").is_dir()
    }

    /// Room on the disk that is kept for what makes room.
    pub fn reserve(&self) -> PathBuf {
        self.data.join("reserve")
    }

    /// Copies of volumes while a backup is made.
    pub fn backups(&self) -> PathBuf {
        self.data.join("backups")
    }

    /// Sources while they are built.
    pub fn archives(&self) -> PathBuf {
        self.data.join("archives")
    }

    /// What builds have said.
    pub fn build_logs(&self) -> PathBuf {
        self.data.join("logs").join("builds")
    }

    pub fn build_log(&self, build: &BuildId) -> PathBuf {
        self.build_logs().join(format!("{build}.log"))
    }

    /// What the engine has said in the log of `app`.
    pub fn journal(&self, app: &AppName) -> PathBuf {
        self.data.join("logs").join("journal").join(app.as_str())
    }

    /// The folders that the builder fills: in each a folder an app, and in that one for each
    /// release's code or each environment.
    pub fn made_by_builds(&self) -> [PathBuf; 2] {
        [self.data.join("releases"), self.data.join("environments")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, name};

    #[test]
    fn a_volume_is_an_image_or_the_folder_beside_it() {
        let data = tempfile::tempdir().unwrap();
        let image = data.path().join("shop.img");
        assert!(!ControlConfig::is_volume(&image));
        std::fs::create_dir(data.path().join("shop")).unwrap();
        assert!(ControlConfig::is_volume(&image));
        std::fs::remove_dir(data.path().join("shop")).unwrap();
        std::fs::write(&image, "").unwrap();
        assert!(ControlConfig::is_volume(&image));
    }

    #[test]
    fn a_url_names_the_port_unless_everyone_knows_it() {
        let mut config = config();
        assert_eq!(config.url(&name("shop")), "http://shop.localhost:8080");
        config.public_port = 80;
        assert_eq!(config.url(&name("shop")), "http://shop.localhost");
    }
}
