//! Paths as an archive may name them: relative, downwards, and of bounded length.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::UnpackError;

/// The longest path.
const PATH_MAX: usize = 2048;
/// The longest name of one file.
const NAME_MAX: usize = 255;
/// The most folders within each other.
const DEPTH_MAX: usize = 64;

/// A path below the code: at least one name, none of them `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelativePath {
    names: Vec<Vec<u8>>,
}

impl RelativePath {
    /// Parses the name of an entry. `./` in front and a `/` at the end mean nothing; `None` is the
    /// root itself.
    pub fn parse(path: &[u8]) -> Result<Option<Self>, UnpackError> {
        if path.starts_with(b"/") {
            return Err(unfit(
                path,
                "is an absolute path; an archive holds paths below its folder",
            ));
        }
        check_bytes(path)?;
        let mut names = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(unfit(path, "leads out of the archive's folder")),
                name if name.len() > NAME_MAX => {
                    return Err(unfit(path, "has too long a name in it"));
                }
                name => names.push(name.to_vec()),
            }
        }
        if names.len() > DEPTH_MAX {
            return Err(unfit(path, "lies in more than 64 folders within each other"));
        }
        Ok((!names.is_empty()).then_some(Self { names }))
    }

    /// The folders on the way, the outermost first.
    pub fn folders(&self) -> impl Iterator<Item = &OsStr> {
        self.names[..self.names.len() - 1].iter().map(|name| OsStr::from_bytes(name))
    }

    /// The last name.
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.names[self.names.len() - 1])
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.names.join(&b'/')
    }

    /// Checks that a symbolic link here, to `target`, stays below the root, going by the names alone.
    ///
    /// Links on the way can lead elsewhere; [`super::tree::Tree::check_links`] looks at those.
    pub fn check_link(&self, target: &[u8]) -> Result<(), UnpackError> {
        if target.is_empty() || target.starts_with(b"/") {
            return Err(self.unfit("is a link to an absolute path; links stay inside the source"));
        }
        check_bytes(target)?;
        let mut depth = self.names.len() - 1;
        for name in target.split(|byte| *byte == b'/') {
            depth = match name {
                b"" | b"." => depth,
                b".." => {
                    depth.checked_sub(1).ok_or_else(|| self.unfit("is a link out of the source"))?
                }
                _ => depth + 1,
            };
        }
        Ok(())
    }

    pub fn unfit(&self, wrong: &'static str) -> UnpackError {
        unfit(&self.to_bytes(), wrong)
    }
}

/// An error about `path`, which may be anything.
pub fn unfit(path: &[u8], wrong: &'static str) -> UnpackError {
    let shown = &path[..path.len().min(200)];
    UnpackError::Unfit { path: String::from_utf8_lossy(shown).into_owned(), wrong }
}

fn check_bytes(path: &[u8]) -> Result<(), UnpackError> {
    if path.len() > PATH_MAX {
        return Err(unfit(path, "is longer than 2048 bytes"));
    }
    if path.iter().any(|byte| byte.is_ascii_control()) {
        return Err(unfit(path, "has a control character in its name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &[u8]) -> Option<RelativePath> {
        RelativePath::parse(path).unwrap()
    }

    #[test]
    fn a_path_is_names_below_the_root() {
        let path = parse(b"./a//b/c/").unwrap();
        assert_eq!(path.to_bytes(), b"a/b/c");
        assert_eq!(path.folders().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(path.name(), "c");
        assert_eq!(parse(b"./"), None);
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for bad in [&b"/a"[..], b"..", b"a/../b", b"a\0b", b"a\nb", b"\x1b[1m", &[b'a'; 300]] {
            assert!(RelativePath::parse(bad).is_err(), "{bad:?}");
        }
        assert!(RelativePath::parse("a/".repeat(65).as_bytes()).is_err());
    }

    #[test]
    fn a_link_goes_up_no_further_than_the_root() {
        let path = parse(b"a/b/link").unwrap();
        assert!(path.check_link(b"../../c").is_ok());
        assert!(path.check_link(b"c/../../..").is_ok());
        assert!(path.check_link(b"../../../etc").is_err());
        assert!(path.check_link(b"/etc/passwd").is_err());
        assert!(path.check_link(b"").is_err());
    }
}
