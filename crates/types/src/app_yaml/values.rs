//! The single values of `app.yaml`: from the text of a scalar to what it means.
//!
//! Every function takes the scalar as it was written and returns the value, or a sentence that says
//! what is wrong with it.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::{Entry, STARTUP_MAX};
use crate::config::{check_name, check_value};
use crate::{BitRate, Bytes, OutOfBounds, PythonRange, Server, ServerChoice};

const PATH_MAX: usize = 1024;
const COMMAND_MAX: usize = 4096;
const DAY: u64 = 86_400;
/// The units of a duration, in seconds.
const DURATION_UNITS: [(&str, u64); 6] =
    [("", 1), ("s", 1), ("m", 60), ("h", 3600), ("d", DAY), ("y", 365 * DAY)];

pub fn version(text: &str) -> Result<(), String> {
    match text {
        "1" => Ok(()),
        _ => Err(format!("version: {text:?} is unknown; this engine reads version 1")),
    }
}

pub fn server(text: &str) -> Result<ServerChoice, String> {
    if text == "none" {
        return Ok(ServerChoice::None);
    }
    let known = Server::ALL.into_iter().find(|server| server.name() == text);
    known.map(ServerChoice::Engine).ok_or_else(|| {
        let names: Vec<&str> = Server::ALL.into_iter().map(Server::name).collect();
        format!("server: {text:?} is unknown; it can be {} or none", names.join(", "))
    })
}

/// A Python as in `3.13`, `2.7`, `>=3.11` or `>=3.8,<3.12`.
pub fn python(text: &str) -> Result<PythonRange, String> {
    text.parse().map_err(|error| format!("python: {error}"))
}

/// `module:callable`, or `module:factory()`.
pub fn entry(text: &str) -> Result<Entry, String> {
    text.parse().map_err(|error| format!("entry: {error}"))
}

pub fn processes(text: &str) -> Result<u16, String> {
    whole("processes", text, 1, 16)
}

pub fn threads(text: &str) -> Result<u16, String> {
    whole("threads", text, 1, 64)
}

/// Cores, in thousandths of one: `1`, `0.5` and `500m`.
pub fn cpu(text: &str) -> Result<u32, String> {
    let error = || format!("cpu: {text:?} is not a number of cores, such as 1, 0.5 or 500m");
    let millicores = match text.strip_suffix('m') {
        Some(thousandths) => digits(thousandths).ok_or_else(error)?,
        None => thousandths(text).ok_or_else(error)?,
    };
    if (50..=128_000).contains(&millicores) {
        return Ok(millicores);
    }
    Err(out_of_bounds("cpu", text, "0.05", "128"))
}

pub fn memory(text: &str) -> Result<Bytes, String> {
    size("memory", text, Bytes::mib(32), Bytes::gib(1024))
}

pub fn pids(text: &str) -> Result<u32, String> {
    whole("pids", text, 8, 32_768)
}

pub fn tmp(text: &str) -> Result<Bytes, String> {
    size("tmp", text, Bytes::mib(1), Bytes::gib(64))
}

pub fn shm(text: &str) -> Result<Bytes, String> {
    size("shm", text, Bytes::kib(64), Bytes::gib(64))
}

pub fn files(text: &str) -> Result<u32, String> {
    whole("files", text, 64, 1_048_576)
}

/// Bytes a second, each way.
pub fn io(text: &str) -> Result<Bytes, String> {
    size("io", text, Bytes::kib(64), Bytes::gib(1024))
}

/// Operations a second, each way.
pub fn iops(text: &str) -> Result<u32, String> {
    whole("iops", text, 10, 10_000_000)
}

/// Bits a second, each way.
pub fn bandwidth(text: &str) -> Result<BitRate, String> {
    let rate: BitRate = text.parse().map_err(|error| format!("bandwidth: {error}"))?;
    let (least, most) = (BitRate::mega(1), BitRate::mega(100_000));
    if (least..=most).contains(&rate) {
        Ok(rate)
    } else {
        Err(out_of_bounds("bandwidth", text, least, most))
    }
}

pub fn log(text: &str) -> Result<Bytes, String> {
    size("log", text, Bytes::mib(1), Bytes::gib(10))
}

pub fn connections(text: &str) -> Result<u32, String> {
    whole("connections", text, 1, 100_000)
}

/// The largest request body; `none` is no bound.
pub fn body(text: &str) -> Result<Option<Bytes>, String> {
    match text {
        "none" => Ok(None),
        _ => size("body", text, Bytes::kib(1), Bytes::gib(1024)).map(Some),
    }
}

pub fn timeout(text: &str) -> Result<Duration, String> {
    bounded_duration("timeout", text, ("1s", 1), ("1h", 3600))
}

pub fn startup(text: &str) -> Result<Duration, String> {
    bounded_duration("startup", text, ("1s", 1), ("10m", STARTUP_MAX.as_secs()))
}

/// A command line for a shell.
pub fn predeploy(text: &str) -> Result<Option<String>, String> {
    if text.trim().is_empty() {
        return Err("predeploy: there is no command; leave the key out to run none".to_owned());
    }
    if text.contains('\0') || text.len() > COMMAND_MAX {
        return Err(format!(
            "predeploy: a command is at most {COMMAND_MAX} bytes, without a null byte"
        ));
    }
    Ok(Some(text.to_owned()))
}

pub fn volume(text: &str) -> Result<Option<Bytes>, String> {
    size("volume", text, Bytes::mib(16), Bytes::gib(16 * 1024)).map(Some)
}

/// A path that is kept on the volume, as in [`super::AppYaml::keep`].
pub fn keep(text: &str) -> Result<String, String> {
    let error = |wrong: &str| Err(format!("keep: {text:?} {wrong}"));
    if text.starts_with('/') {
        return error("begins with \"/\"; name what is in the app's folder");
    }
    let inside = text.strip_prefix("./").unwrap_or(text);
    let inside = inside.strip_suffix('/').unwrap_or(inside);
    if matches!(inside, "" | ".") {
        return error("is the whole app; name what it writes");
    }
    match unfit_path(inside) {
        Some(wrong) => error(wrong),
        None => Ok(inside.to_owned()),
    }
}

/// A path that a probe asks for.
pub fn health(text: &str) -> Result<String, String> {
    let fits = text.starts_with('/')
        && text.len() <= PATH_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("health: {text:?} is not a path, such as /healthz"))
    }
}

/// How long a client may keep a file; `off` is not said at all.
pub fn expire(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" | "" => Ok(None),
        _ => bounded_duration("expire", text, ("0", 0), ("10y", 3650 * DAY)).map(Some),
    }
}

/// The path of a static rule, as [`super::StaticRule::path`].
pub fn static_path(text: &str) -> Result<String, String> {
    let error = |wrong: &str| Err(format!("path: {text:?} {wrong}"));
    let Some(rest) = text.strip_prefix('/') else { return error("does not begin with \"/\"") };
    if text.contains(['?', '#']) {
        return error("has a \"?\" or \"#\"; a rule is about the path alone");
    }
    match unfit_path(rest) {
        Some(wrong) => error(wrong),
        None => Ok(text.to_owned()),
    }
}

/// The files of a static rule, as [`super::StaticRule::files`]; `folder` if its path ends in `/`.
pub fn static_files(text: &str, folder: bool) -> Result<String, String> {
    let error = |wrong: &str| Err(format!("files: {text:?} {wrong}"));
    let inside = text.strip_prefix("./").or(text.strip_prefix('/')).unwrap_or(text);
    if inside.is_empty() {
        return error("is the whole app; name a folder in it");
    }
    if let Some(wrong) = unfit_path(inside) {
        return error(wrong);
    }
    match (folder, inside.ends_with('/')) {
        (true, false) => Ok(format!("{inside}/")),
        (false, true) => {
            error("is a folder, and its path ends in no \"/\"; a folder's path ends in \"/\"")
        }
        _ => Ok(inside.to_owned()),
    }
}

/// The status of an error page.
pub fn error_status(text: &str) -> Result<u16, String> {
    whole("status", text, 400, 599)
}

/// The file of an error page, as [`super::ErrorPage::file`].
pub fn error_file(text: &str) -> Result<String, String> {
    let inside = text.strip_prefix("./").or(text.strip_prefix('/')).unwrap_or(text);
    match unfit_path(inside) {
        Some(wrong) => Err(format!("file: {text:?} {wrong}")),
        None if inside.is_empty() || inside.ends_with('/') => {
            Err(format!("file: {text:?} is a folder; name the page in it"))
        }
        None => Ok(inside.to_owned()),
    }
}

pub fn env_name(text: &str) -> Result<(), String> {
    check_name(text).map_err(|error| format!("env: {error}"))
}

pub fn env_value(text: &str) -> Result<String, String> {
    check_value(text).map_err(|error| format!("env: {error}"))?;
    Ok(text.to_owned())
}

/// Those of `known` that `word` may have been meant to be.
pub fn near<'a>(word: &str, known: &[&'a str]) -> Vec<&'a str> {
    let close_enough = |name: &&&str| edits(word, name) <= 1 + name.len() / 4;
    let mut names: Vec<&str> = known.iter().filter(close_enough).copied().collect();
    names.sort_by_key(|name| edits(word, name));
    names.truncate(2);
    names
}

/// Letters to insert, delete, replace or swap with their neighbour to get from `from` to `to`.
///
/// The distance is the "optimal string alignment" one. Long words are told apart by length alone.
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    if from.len().abs_diff(to.len()) > 4 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let same = usize::from(from[i - 1] != to[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

/// What keeps `path`, which has no leading `/`, from naming one place below a folder.
fn unfit_path(path: &str) -> Option<&'static str> {
    if path.len() > PATH_MAX {
        return Some("is longer than 1024 bytes");
    }
    if path.contains(|c: char| c.is_control() || c == '\\') {
        return Some("has a character that can't stand in a path");
    }
    let segments = path.strip_suffix('/').unwrap_or(path);
    if !segments.is_empty() && segments.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("has an empty part, \".\" or \"..\" in it");
    }
    None
}

/// A number without sign, spaces and such; `None` where it is none or too large.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if fits { text.parse().ok() } else { None }
}

/// `1.5` as 1500. At most three digits after the point.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole: u32 = digits(whole)?;
    let scale = 10_u32.pow(3_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?);
    whole.checked_mul(1000)?.checked_add(digits::<u32>(fraction)? * scale)
}

fn whole<T>(key: &'static str, text: &str, least: T, most: T) -> Result<T, String>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    let number: u64 =
        digits(text).ok_or_else(|| format!("{key}: {text:?} is not a whole number"))?;
    match T::try_from(number) {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(out_of_bounds(key, text, least, most)),
    }
}

fn size(key: &'static str, text: &str, least: Bytes, most: Bytes) -> Result<Bytes, String> {
    let size: Bytes = text.parse().map_err(|error| format!("{key}: {error}"))?;
    if (least..=most).contains(&size) {
        Ok(size)
    } else {
        Err(out_of_bounds(key, text, least, most))
    }
}

fn bounded_duration(
    key: &'static str,
    text: &str,
    (least_text, least): (&str, u64),
    (most_text, most): (&str, u64),
) -> Result<Duration, String> {
    let error = || format!("{key}: {text:?} is not a duration, such as 30s, 10m, 12h, 30d or 1y");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let (_, unit) = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
    let seconds = digits::<u64>(number).ok_or_else(error)?.saturating_mul(*unit);
    if !(least..=most).contains(&seconds) {
        return Err(out_of_bounds(key, text, least_text, most_text));
    }
    Ok(Duration::from_secs(seconds))
}

fn out_of_bounds(
    key: &'static str,
    asked: &str,
    least: impl Display,
    most: impl Display,
) -> String {
    let (least, most) = (least.to_string(), most.to_string());
    OutOfBounds { key, asked: asked.to_owned(), least, most }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_in_thousandths() {
        for (text, millicores) in [("1", 1000), ("0.5", 500), ("500m", 500), ("1.25", 1250)] {
            assert_eq!(cpu(text), Ok(millicores), "{text}");
        }
        for bad in ["", "m", "-1", "1.2345", "0", "0.01", "999", "1e3", ".5", "1.", "99999999999"] {
            assert!(cpu(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_number_alone_is_seconds() {
        for (text, seconds) in
            [("45", 45), ("45s", 45), ("10m", 600), ("12h", 43_200), ("1y", 31_536_000)]
        {
            assert_eq!(expire(text), Ok(Some(Duration::from_secs(seconds))), "{text}");
        }
        for bad in ["-1", "1w", "d", "1.5h", "99y", "99999999999999999999d"] {
            assert!(expire(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mistyped_word_is_near_the_right_one() {
        let known = ["static", "threads", "env", "entry"];
        assert_eq!(near("statci", &known), ["static"]);
        assert_eq!(near("thread", &known), ["threads"]);
        assert_eq!(near("envs", &known), ["env"]);
        assert!(near("kubernetes", &known).is_empty());
    }
}
