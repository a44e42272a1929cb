//! What an app has written beside its code, and what of `app.yaml` would keep it.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use ace_api::WrittenFiles;
use ace_sandbox::WrittenNote;

/// What init has noted in the folder `log` of an instance of the release that has its source in `code`. `None` where
/// there is nothing, or no word of it.
pub fn look(log: &Path, code: &Path) -> Option<WrittenFiles> {
    let WrittenNote { names, count } = ace_sandbox::written(log).ok()??;
    let keep: BTreeSet<String> = names.iter().filter_map(|name| to_keep(name, code)).collect();
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    Some(WrittenFiles { keep: keep.into_iter().collect(), names, count })
}

/// The path that a `keep` would name for the file `name`: the first part of it that the source does not have,
/// so that no code of a release comes to be on the volume. `None` where that would be made as a folder and is
/// a file, or the other way round.
fn to_keep(name: &str, code: &Path) -> Option<String> {
    let path = Path::new(name.trim_end_matches('/'));
    let is_plain = |part: &Component<'_>| matches!(part, Component::Normal(_));
    let is_shown = |part: char| part == char::REPLACEMENT_CHARACTER || part == ',';
    if !path.components().all(|part| is_plain(&part)) || name.contains(is_shown) {
        return None;
    }
    let mut above: Vec<&Path> = path.ancestors().filter(|it| *it != Path::new("")).collect();
    above.reverse();
    let is_new = |path: &&&Path| code.join(path).symlink_metadata().is_err();
    let kept = above.iter().find(is_new).copied().unwrap_or(path);
    let is_file = kept == path && !name.ends_with('/');
    let is_there = code.join(kept).symlink_metadata().is_ok();
    (is_there || is_file == kept.extension().is_some()).then(|| kept.display().to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_kept_is_no_part_of_the_source() {
        let code = tempfile::TempDir::new().unwrap();
        fs::create_dir_all(code.path().join("shop/media")).unwrap();
        fs::write(code.path().join("shop/media/logo.png"), "").unwrap();
        for (name, kept) in [
            ("db.sqlite3", Some("db.sqlite3")),
            ("instance/a/visits.db", Some("instance")),
            ("shop/media/uploads/photo.png", Some("shop/media/uploads")),
            ("shop/media/photo.png", Some("shop/media/photo.png")),
            ("shop/media/logo.png", Some("shop/media/logo.png")),
            ("private/", Some("private")),
            ("settings", None),
            ("wiki.d/page", None),
            ("a\u{fffd}.db", None),
            ("../x.db", None),
        ] {
            assert_eq!(to_keep(name, code.path()).as_deref(), kept, "{name}");
        }
    }
}
