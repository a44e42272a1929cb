//! What to do about an app that did not start, or does not answer well, as far as that shows it. Hints
//! only: nothing depends on them.

use std::fmt::Display;
use std::time::Duration;

use ace_api::EndReason;
use ace_types::app_yaml::STARTUP_MAX;
use ace_types::{AppName, Bytes, HostName};
use http::StatusCode;

/// Modules whose distribution has another name.
const DISTRIBUTIONS: [(&str, &str); 27] = [
    ("Crypto", "pycryptodome"),
    ("MySQLdb", "mysqlclient"),
    ("OpenSSL", "pyOpenSSL"),
    ("PIL", "Pillow"),
    ("attr", "attrs"),
    ("bs4", "beautifulsoup4"),
    ("cv2", "opencv-python-headless"),
    ("dateutil", "python-dateutil"),
    ("docx", "python-docx"),
    ("dotenv", "python-dotenv"),
    ("fitz", "PyMuPDF"),
    ("flask_cors", "Flask-Cors"),
    ("git", "GitPython"),
    ("jose", "python-jose"),
    ("jwt", "PyJWT"),
    ("ldap", "python-ldap"),
    ("magic", "python-magic"),
    ("markdown", "Markdown"),
    ("multipart", "python-multipart"),
    ("nacl", "PyNaCl"),
    ("pkg_resources", "setuptools<81"),
    ("psycopg2", "psycopg2-binary"),
    ("rest_framework", "djangorestframework"),
    ("serial", "pyserial"),
    ("sklearn", "scikit-learn"),
    ("yaml", "PyYAML"),
    ("zmq", "pyzmq"),
];

/// What many distributions share the beginning of their modules' names with; whether they are named as
/// their modules are.
const FAMILIES: [(&str, bool); 6] = [
    ("azure", false),
    ("backports", true),
    ("google", false),
    ("jaraco", true),
    ("ruamel", true),
    ("zope", true),
];

/// Modules that the standard library once had: when they went, and what there is instead.
const GONE: [(&str, &str, &str); 18] = [
    ("ConfigParser", "3.0", "it's configparser now, or say \"python: 2.7\" in app.yaml"),
    ("HTMLParser", "3.0", "it's html.parser now, or say \"python: 2.7\" in app.yaml"),
    ("Queue", "3.0", "it's queue now, or say \"python: 2.7\" in app.yaml"),
    ("StringIO", "3.0", "it's in io now, or say \"python: 2.7\" in app.yaml"),
    ("asynchat", "3.12", "add pyasynchat to requirements.txt"),
    ("asyncore", "3.12", "add pyasyncore to requirements.txt"),
    ("cPickle", "3.0", "it's pickle now, or say \"python: 2.7\" in app.yaml"),
    ("cStringIO", "3.0", "it's in io now, or say \"python: 2.7\" in app.yaml"),
    ("cgi", "3.13", "add legacy-cgi to requirements.txt"),
    ("cgitb", "3.13", "add legacy-cgi to requirements.txt"),
    ("cookielib", "3.0", "it's http.cookiejar now, or say \"python: 2.7\" in app.yaml"),
    ("crypt", "3.13", "add legacycrypt to requirements.txt"),
    ("distutils", "3.12", "add setuptools to requirements.txt"),
    ("httplib", "3.0", "it's http.client now, or say \"python: 2.7\" in app.yaml"),
    ("imghdr", "3.13", "add standard-imghdr to requirements.txt"),
    ("imp", "3.12", "it's importlib now, or say \"python: 3.11\" in app.yaml"),
    ("urllib2", "3.0", "it's urllib.request now, or say \"python: 2.7\" in app.yaml"),
    ("urlparse", "3.0", "it's urllib.parse now, or say \"python: 2.7\" in app.yaml"),
];

/// `reason` in words, with the way out where there is one to be seen.
pub fn told(reason: &EndReason) -> String {
    match way_out(reason) {
        Some(way_out) => format!("{reason}; {way_out}"),
        None => reason.to_string(),
    }
}

/// What there is to say of an app whose first answer, to a request for `/` at `host`, had this status. That
/// someone has to log in, or that `/` is no page, is as many apps are meant to be.
pub fn of_first_answer(status: u16, app: &AppName, host: &HostName) -> Option<String> {
    let status = StatusCode::from_u16(status).ok()?;
    let way_out = match status {
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST => {
            format!(
                "if it checks the host of a request, let it allow {host} (Django: ALLOWED_HOSTS)"
            )
        }
        _ if status.is_server_error() => format!("why, its log may tell: ace logs {app}"),
        _ => return None,
    };
    Some(format!("{app} answers GET / with {status}; {way_out}"))
}

/// What to do about a command of the app's own that ended by itself, as far as its last words show it.
pub fn of_last_words(end: &EndReason, words: &str) -> Option<String> {
    let EndReason::Exited { .. } = end else { return None };
    let (error, what) = words.lines().last()?.split_once(": No module named ")?;
    let module = what.trim_matches('\'');
    matches!(error, "ModuleNotFoundError" | "ImportError").then(|| missing(module))?
}

fn way_out(reason: &EndReason) -> Option<String> {
    match reason {
        EndReason::ModuleMissing { folder: Some(folder), .. } => in_folder(folder),
        EndReason::ModuleMissing { module, folder: None } => missing(module),
        EndReason::ImportFailed { error } if error.starts_with("KeyError: ") => Some(
            "if that is a variable, \"env:\" in app.yaml sets it, or \"ace config\" where it's secret".to_owned(),
        ),
        EndReason::OutOfMemory { limit } => Some(raise("memory", twice(*limit))),
        EndReason::TooManyProcesses { limit } => Some(raise("pids", limit.saturating_mul(2))),
        EndReason::TmpFull { limit } | EndReason::CodeFull { limit } => {
            Some(raise("tmp", twice(*limit)))
        }
        EndReason::ShmFull { limit } => Some(raise("shm", twice(*limit))),
        EndReason::VolumeFull { size } => {
            Some(format!("\"volume: {}\" in app.yaml makes it larger", twice(*size)))
        }
        EndReason::StillLoading { after } => more_time(*after),
        EndReason::NothingListens { after, elsewhere, .. } if elsewhere.is_empty() => {
            more_time(*after)
        }
        EndReason::NothingListens { .. } => {
            Some("have it listen on 0.0.0.0:$PORT, or set PORT by \"env:\" in app.yaml".to_owned())
        }
        _ => None,
    }
}

fn raise(limit: &str, to: impl Display) -> String {
    format!("\"limits: {{{limit}: {to}}}\" in app.yaml raises it")
}

fn twice(size: Bytes) -> Bytes {
    Bytes(size.0.saturating_mul(2))
}

/// `None` where it has had all the time that there is.
fn more_time(after: Duration) -> Option<String> {
    let seconds = after.saturating_mul(2).min(STARTUP_MAX).as_secs();
    let line = format!("\"startup: {seconds}s\" in app.yaml gives it more time");
    (after < STARTUP_MAX).then_some(line)
}

/// For a module that lies in `folder` of the source.
fn in_folder(folder: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    folder.bytes().all(is_plain).then(|| {
        format!(
            "the source has it in {folder}: \"env: {{PYTHONPATH: /ace/code/{folder}}}\" in app.yaml has it \
             looked for there"
        )
    })
}

fn missing(module: &str) -> Option<String> {
    let (top, _) = module.split_once('.').unwrap_or((module, ""));
    if let Some((_, since, instead)) = GONE.iter().find(|(gone, _, _)| *gone == top) {
        return Some(format!("the standard library has no {top} since Python {since}: {instead}"));
    }
    if let Some(line) = of_family(module) {
        return Some(line);
    }
    if top != module {
        // Python names the first part that it does not find: the package itself is there.
        return Some(format!(
            "the {top} that is found may be of another version, or a file of the app's own"
        ));
    }
    let named = DISTRIBUTIONS.iter().find(|(name, _)| *name == top);
    // What isn't a name must not come to look like advice of ours.
    let is_name = top.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let distribution = named.map_or(top, |(_, distribution)| *distribution);
    is_name.then(|| format!("add this line to requirements.txt: {distribution}"))
}

/// The same for a module of one of [`FAMILIES`]; `None` where it is of none.
fn of_family(module: &str) -> Option<String> {
    let mut parts = module.split('.');
    let family = parts.next()?;
    let (_, is_named_so) = FAMILIES.iter().find(|(name, _)| *name == family)?;
    let member = parts.next().filter(|_| *is_named_so);
    let is_name =
        |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let line = match member.filter(is_name) {
        Some(member) => format!("add this line to requirements.txt: {family}.{member}"),
        None => format!(
            "many packages have modules below {family}: add the one with the module that is imported to \
             requirements.txt"
        ),
    };
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(module: &str) -> String {
        told(&EndReason::ModuleMissing { module: module.to_owned(), folder: None })
    }

    #[test]
    fn a_missing_module_has_its_line() {
        assert_eq!(
            missing("yaml"),
            "the module \"yaml\" is missing; add this line to requirements.txt: PyYAML"
        );
        assert!(missing("flask").ends_with("requirements.txt: flask"));
        assert!(
            missing("flask.ext").ends_with("may be of another version, or a file of the app's own")
        );
        assert!(missing("xml\n; rm").ends_with("is missing"));
        assert!(missing("zope.interface.x").ends_with("requirements.txt: zope.interface"));
        assert!(missing("backports").contains("many packages have modules below backports: add"));
        assert!(missing("google.cloud").contains("many packages have modules below google: add"));
    }

    #[test]
    fn a_module_that_the_source_has_is_not_to_be_installed() {
        let lies_in = |folder: &str| {
            let folder = Some(folder.to_owned());
            told(&EndReason::ModuleMissing { module: "sapi".to_owned(), folder })
        };
        let line = "\"env: {PYTHONPATH: /ace/code/lib}\" in app.yaml has it looked for there";
        assert!(lies_in("lib").ends_with(line), "{}", lies_in("lib"));
        assert!(lies_in("lib}, {").ends_with("is missing"));
    }

    #[test]
    fn a_limit_that_was_met_has_its_line() {
        let limit = Bytes::mib(512);
        assert!(
            told(&EndReason::OutOfMemory { limit })
                .ends_with("; \"limits: {memory: 1G}\" in app.yaml raises it")
        );
        let loading =
            |seconds| told(&EndReason::StillLoading { after: Duration::from_secs(seconds) });
        assert!(loading(60).ends_with("; \"startup: 120s\" in app.yaml gives it more time"));
        assert!(loading(400).contains("startup: 600s"));
        assert!(loading(600).ends_with("600 s (startup)"), "there is no more");
    }

    #[test]
    fn a_command_that_lacks_a_module_has_said_so_last() {
        let of = |words| of_last_words(&EndReason::Exited { status: 1 }, words);
        let line = Some("add this line to requirements.txt: PyYAML".to_owned());
        assert_eq!(of("Traceback\nModuleNotFoundError: No module named 'yaml'"), line);
        assert_eq!(of("ImportError: No module named yaml"), line);
        assert_eq!(of("ModuleNotFoundError: No module named 'yaml'\nretrying"), None);
        let signalled = EndReason::Signalled { signal: 9 };
        assert_eq!(of_last_words(&signalled, "ImportError: No module named yaml"), None);
    }

    #[test]
    fn what_the_standard_library_lost_is_said_to_be_lost() {
        assert!(missing("urllib2").contains("no urllib2 since Python 3.0: it's urllib.request"));
        assert!(missing("distutils.core").contains("since Python 3.12: add setuptools"));
    }

    #[test]
    fn an_answer_that_is_no_page_has_its_way_out() {
        let (app, host) =
            ("shop".parse().expect("a name"), "shop.localhost".parse().expect("a host"));
        let of = |status| of_first_answer(status, &app, &host);
        assert_eq!(
            of(400).as_deref(),
            Some(
                "shop answers GET / with 400 Bad Request; if it checks the host of a request, let it \
                 allow shop.localhost (Django: ALLOWED_HOSTS)"
            )
        );
        assert!(of(500).is_some_and(|note| note.ends_with("ace logs shop")));
        assert_eq!([200, 302, 401, 404].map(of), [None, None, None, None]);
    }

    #[test]
    fn the_tables_are_in_order_and_name_nothing_twice() {
        assert!(DISTRIBUTIONS.is_sorted_by(|a, b| a.0 < b.0));
        assert!(FAMILIES.is_sorted_by(|a, b| a.0 < b.0));
        assert!(GONE.is_sorted_by(|a, b| a.0 < b.0));
    }
}
