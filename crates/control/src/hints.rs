//! What to do about an app that did not start, as far as its end shows it. Hints only: nothing
//! depends on them.

use ace_api::EndReason;

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

fn way_out(reason: &EndReason) -> Option<String> {
    match reason {
        EndReason::ModuleMissing { module } => missing(module),
        EndReason::OutOfMemory { .. } => Some(raise("memory")),
        EndReason::TooManyProcesses { .. } => Some(raise("pids")),
        EndReason::TmpFull { .. } | EndReason::CodeFull { .. } => Some(raise("tmp")),
        EndReason::ShmFull { .. } => Some(raise("shm")),
        EndReason::VolumeFull { .. } => Some("\"volume:\" in app.yaml makes it larger".to_owned()),
        EndReason::StillLoading { .. } => {
            Some("\"startup:\" in app.yaml gives it more time".to_owned())
        }
        EndReason::NothingListens { elsewhere, .. } if elsewhere.is_empty() => {
            Some("\"startup:\" in app.yaml gives it more time".to_owned())
        }
        EndReason::NothingListens { .. } => {
            Some("have it listen on 0.0.0.0:$PORT, or set PORT by \"env:\" in app.yaml".to_owned())
        }
        _ => None,
    }
}

fn raise(limit: &str) -> String {
    format!("\"limits: {{{limit}: …}}\" in app.yaml raises it")
}

fn missing(module: &str) -> Option<String> {
    let (top, _) = module.split_once('.').unwrap_or((module, ""));
    if let Some((_, since, instead)) = GONE.iter().find(|(gone, _, _)| *gone == top) {
        return Some(format!("the standard library has no {top} since Python {since}: {instead}"));
    }
    if top != module {
        // Python names the first part that it does not find: the package itself is there.
        return Some(format!("the {top} that is installed may be of another version"));
    }
    let named = DISTRIBUTIONS.iter().find(|(name, _)| *name == top);
    // What isn't a name must not come to look like advice of ours.
    let is_name = top.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let distribution = named.map_or(top, |(_, distribution)| *distribution);
    is_name.then(|| format!("add this line to requirements.txt: {distribution}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(module: &str) -> String {
        told(&EndReason::ModuleMissing { module: module.to_owned() })
    }

    #[test]
    fn a_missing_module_has_its_line() {
        assert_eq!(
            missing("yaml"),
            "the module \"yaml\" is missing; add this line to requirements.txt: PyYAML"
        );
        assert!(missing("flask").ends_with("requirements.txt: flask"));
        assert!(
            missing("flask.ext").ends_with("flask that is installed may be of another version")
        );
        assert!(missing("xml\n; rm").ends_with("is missing"));
    }

    #[test]
    fn what_the_standard_library_lost_is_said_to_be_lost() {
        assert!(missing("urllib2").contains("no urllib2 since Python 3.0: it's urllib.request"));
        assert!(missing("distutils.core").contains("since Python 3.12: add setuptools"));
    }

    #[test]
    fn the_tables_are_in_order_and_name_nothing_twice() {
        assert!(DISTRIBUTIONS.is_sorted_by(|a, b| a.0 < b.0));
        assert!(GONE.is_sorted_by(|a, b| a.0 < b.0));
    }
}
