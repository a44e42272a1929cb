//! What the server's administrator can do about a build that lacks something of the system's: a package
//! of Debian's that brings what an installer, a compiler or a build system says it did not find.

mod packages;

use ace_types::shared_object;

use packages::{known_as, with_header, with_program};

/// Sentences that name what is missing in no form of their own, and the packages.
const SENTENCES: &[(&str, &str)] = &[
    ("libxml2 and libxslt development packages", "libxml2-dev libxslt1-dev"),
    ("development packages of libxml2 and libxslt", "libxml2-dev libxslt1-dev"),
    ("Can not find valid pkg-config name", "default-libmysqlclient-dev"),
    ("A GDAL API version must be specified", "libgdal-dev"),
    ("can't find Rust compiler", "cargo"),
    ("Rust not found, installing", "cargo"),
    ("Cargo, the Rust package manager, is not installed", "cargo"),
    ("No CMAKE_C_COMPILER could be found", "gcc"),
    ("No CMAKE_CXX_COMPILER could be found", "g++"),
    ("No CMAKE_Fortran_COMPILER could be found", "gfortran"),
    ("CMake must be installed", "cmake"),
    ("CMAKE_MAKE_PROGRAM is not set", "make"),
    ("Pkg-config for machine host machine not found", "pkg-config"),
    ("Unable to invoke pkg-config", "pkg-config"),
    ("pkg-config probably not installed", "pkg-config"),
    ("pkg-config is not installed", "pkg-config"),
    ("pkg-config script could not be found", "pkg-config"),
    ("No working compiler found", "gcc"),
    ("no acceptable C compiler found", "gcc"),
];

/// How a header's name stands in a line, between what and what.
const HEADERS: &[(&str, &str)] = &[
    ("fatal error: ", ": No such file or directory"),
    ("fatal error: '", "' file not found"),
    ("error: ", ": No such file or directory"),
    ("a library that provides `", "` for"),
];
/// The same of a program's name.
const PROGRAMS: &[(&str, &str)] = &[
    ("command '", "' failed: No such file or directory"),
    ("unable to execute '", "': No such file or directory"),
    ("unable to execute ", ": No such file or directory"),
    ("No such file or directory: '", "'"),
    ("No such file or directory: b'", "'"),
    ("Cannot find command '", "'"),
    ("Program '", "' not found"),
    ("Unknown compiler(s): [['", "'"),
];
/// The same of what pkg-config, Meson and CMake call a library, and linkers.
const LIBRARIES: &[(&str, &str)] = &[
    ("cannot find -l", ":"),
    ("cannot find -l", ""),
    ("No package '", "' found"),
    ("Package '", "', required by"),
    ("Package '", "' was not found"),
    ("Package ", " was not found in the pkg-config search path"),
    ("Dependency \"", "\" not found"),
    ("Dependency '", "' is required but not found"),
    ("Dependency lookup for ", " with method"),
    ("headers or library files could not be found for ", ","),
    ("Could NOT find ", " (missing"),
    ("Could NOT find ", ""),
    ("package configuration file provided by \"", "\""),
];

/// The package, or packages, that bring what `line` says is missing. `python` is `3.11`.
pub fn package_for(line: &str, python: &str) -> Option<String> {
    let line = line.trim();
    if line.contains("Python.h") && line.contains("No such file") {
        return Some(format!("python{python}-dev"));
    }
    let sentence = SENTENCES.iter().find(|(words, _)| line.contains(words));
    let package = sentence
        .map(|(_, package)| *package)
        .or_else(|| named(line, HEADERS, with_header))
        .or_else(|| named(line, PROGRAMS, with_program))
        .or_else(|| named(line, LIBRARIES, library))
        .or_else(|| not_found(line))
        .or_else(|| Some(shared_object::missing_in(line)?.1))?;
    Some(package.to_owned())
}

/// What to do about a server that lacks `packages`; `None` where it lacks none.
pub fn remedy(packages: &[String]) -> Option<String> {
    let all = packages.join(" ");
    let words = "what is missing comes to this server with: apt-get install";
    (!packages.is_empty()).then(|| format!("{words} {all}"))
}

/// The package of the first name that stands in `line` as one of `places` says.
fn named(
    line: &str,
    places: &[(&str, &str)],
    package: impl Fn(&str) -> Option<&'static str>,
) -> Option<&'static str> {
    places.iter().find_map(|(before, after)| {
        let (_, rest) = line.split_once(before)?;
        let name = match *after {
            "" => rest.split_whitespace().next()?,
            after => rest.split_once(after)?.0,
        };
        package(name)
    })
}

/// CMake finds programs as it finds libraries.
fn library(name: &str) -> Option<&'static str> {
    known_as(name).or_else(|| with_program(&name.to_ascii_lowercase()))
}

/// The package of a program that a shell, or whoever looked for it, says is not found.
fn not_found(line: &str) -> Option<&'static str> {
    // What is only looked for need not be there.
    if line.starts_with("checking ") || line.starts_with("-- ") {
        return None;
    }
    let (before, _) = line.split_once(" not found")?;
    let before = before.trim_end_matches(" executable").trim_end_matches(": command");
    let before = before.trim_end_matches(": command").trim_end_matches(':');
    let name = before.rsplit([' ', ':']).next()?;
    let name = name.trim_matches(['\'', '"', '`']);
    with_program(name).or_else(|| with_program(&name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_installers_and_compilers_miss_has_a_package() {
        for (line, package) in [
            ("a.c:1:10: fatal error: Python.h: No such file or directory", "python3.11-dev"),
            (
                "Modules/common.h:15:10: fatal error: lber.h: No such file or directory",
                "libldap-dev",
            ),
            ("./bootstrap.sh: 2: autoreconf: not found", "autoconf"),
            ("/bin/sh: 1: krb5-config: not found", "libkrb5-dev"),
            (
                "src/pyaudio/device_api.c:9:10: fatal error: portaudio.h: No such file or directory",
                "portaudio19-dev",
            ),
            (
                "hint: This error likely indicates that you need to install a library that provides `sql.h` for `pyodbc@5.5.0`",
                "unixodbc-dev",
            ),
            (
                "ConfigurationError: Could not run curl-config: [Errno 2] No such file or directory: 'curl-config'",
                "libcurl4-openssl-dev",
            ),
            ("Exception: Can not find valid pkg-config name.", "default-libmysqlclient-dev"),
            (
                "src/_pylibmcmodule.h:42:10: fatal error: libmemcached/memcached.h: No such file or directory",
                "libmemcached-dev",
            ),
            (
                "src/python3/connection.h:33:10: fatal error: sqlcipher/sqlite3.h: No such file or directory",
                "libsqlcipher-dev",
            ),
            (
                "-- Could NOT find BISON (missing: BISON_EXECUTABLE) (Required is at least version \"3.5\")",
                "bison",
            ),
            (
                "../../meson.build:41:0: ERROR: Unknown compiler(s): [['gfortran'], ['flang'], ['nvfortran']]",
                "gfortran",
            ),
            ("psycopg.h:30:10: fatal error: libpq-fe.h: No such file or directory", "libpq-dev"),
            ("Error: pg_config executable not found.", "libpq-dev"),
            ("OSError: mysql_config not found", "default-libmysqlclient-dev"),
            ("x.c:3:10: fatal error: openssl/aes.h: No such file or directory", "libssl-dev"),
            ("x.c:3:10: fatal error: 'libxml/xmlversion.h' file not found", "libxml2-dev"),
            (
                "Error: Please make sure the libxml2 and libxslt development packages are installed.",
                "libxml2-dev libxslt1-dev",
            ),
            ("The headers or library files could not be found for jpeg,", "libjpeg-dev"),
            ("/usr/bin/ld: cannot find -lldap_r: No such file or directory", "libldap-dev"),
            ("/usr/bin/ld: cannot find -lsasl2", "libsasl2-dev"),
            ("Package 'libffi', required by 'virtual:world', not found", "libffi-dev"),
            ("No package 'libsystemd' found", "libsystemd-dev"),
            ("Package dbus-1 was not found in the pkg-config search path.", "libdbus-1-dev"),
            (
                "../meson.build:30:10: ERROR: Dependency \"cairo\" not found, tried pkgconfig and cmake",
                "libcairo2-dev",
            ),
            ("CMake Error: Could NOT find ZLIB (missing: ZLIB_LIBRARY)", "zlib1g-dev"),
            (
                "Could not find a package configuration file provided by \"Boost\" with any of",
                "libboost-all-dev",
            ),
            ("error: command 'gcc' failed: No such file or directory", "gcc"),
            ("unable to execute 'x86_64-linux-gnu-gcc': No such file or directory", "gcc"),
            ("unable to execute 'swig': No such file or directory", "swig"),
            ("error: command 'g++' not found", "g++"),
            ("bash: cmake: command not found", "cmake"),
            ("FileNotFoundError: [Errno 2] No such file or directory: 'cmake'", "cmake"),
            ("error: can't find Rust compiler", "cargo"),
            ("Rust not found, installing into a temporary directory", "cargo"),
            (
                "ERROR: Cannot find command 'hg' - do you have 'hg' installed and in your PATH?",
                "mercurial",
            ),
            (
                "  cause: Git executable not found. Ensure that Git is installed and available.",
                "git",
            ),
            (
                "OSError: libgdal.so.32: cannot open shared object file: No such file or directory",
                "libgdal32",
            ),
        ] {
            assert_eq!(package_for(line, "3.11").as_deref(), Some(package), "{line}");
        }
    }

    #[test]
    fn other_lines_have_none() {
        for line in [
            "gcc -pthread -c a.c",
            "a.c:1: error: 'x' undeclared",
            "No such file or directory",
            "checking for swig... not found",
            "src/uvloop/loop.c:212:12: fatal error: longintrepr.h: No such file or directory",
            "cannot open templates/gcc: No such file or directory",
            "",
        ] {
            assert_eq!(package_for(line, "3.11"), None, "{line}");
        }
    }

    #[test]
    fn all_that_is_missing_is_said_in_one_sentence() {
        assert_eq!(remedy(&[]), None);
        let told = remedy(&["gcc".to_owned(), "libpq-dev".to_owned()]);
        assert!(told.is_some_and(|told| told.ends_with("apt-get install gcc libpq-dev")));
    }
}
