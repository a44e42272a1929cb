//! What the server's administrator can do about a build that lacks something of the system's.

/// What installers and compilers say, and the Debian package that would have helped. The first that
/// a line contains counts.
const PACKAGES: [(&str, &str); 22] = [
    ("libpq-fe.h: No such file", "libpq-dev"),
    ("pg_config executable not found", "libpq-dev"),
    ("mysql.h: No such file", "default-libmysqlclient-dev"),
    ("mysql_config: not found", "default-libmysqlclient-dev"),
    ("Can not find valid pkg-config name", "default-libmysqlclient-dev"),
    ("ffi.h: No such file", "libffi-dev"),
    ("openssl/", "libssl-dev"),
    ("jpeglib.h: No such file", "libjpeg-dev"),
    ("headers or library files could not be found for jpeg", "libjpeg-dev"),
    ("libxml/", "libxml2-dev"),
    ("make sure the development packages of libxml2 and libxslt", "libxml2-dev libxslt1-dev"),
    ("libxslt/", "libxslt1-dev"),
    ("zlib.h: No such file", "zlib1g-dev"),
    ("ldap.h: No such file", "libldap-dev"),
    ("sasl/sasl.h: No such file", "libsasl2-dev"),
    ("readline/readline.h: No such file", "libreadline-dev"),
    ("curses.h: No such file", "libncurses-dev"),
    ("gmp.h: No such file", "libgmp-dev"),
    ("curl-config", "libcurl4-openssl-dev"),
    ("rust compiler", "rustc cargo"),
    ("g++", "g++"),
    ("gcc", "gcc"),
];
/// How a line says that the thing in it isn't there. Others merely mention it.
const MISSING: [&str; 7] = [
    "No such file or directory",
    "not found",
    "No such file",
    "could not be found",
    "Can not find",
    "make sure",
    "can't find",
];

/// What to do about `line`, where it says that something is missing. `python` is `3.11`.
pub fn remedy(line: &str, python: &str) -> Option<String> {
    if !MISSING.iter().any(|words| line.contains(words)) {
        return None;
    }
    let package = match line.contains("Python.h") {
        true => format!("python{python}-dev"),
        false => PACKAGES.iter().find(|(words, _)| line.contains(words))?.1.to_owned(),
    };
    Some(format!("what is missing comes to this server with: apt-get install {package}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_a_package() {
        for (line, package) in [
            ("a.c:1:10: fatal error: Python.h: No such file or directory", "python3.11-dev"),
            ("psycopg.h:30:10: fatal error: libpq-fe.h: No such file or directory", "libpq-dev"),
            ("Error: pg_config executable not found.", "libpq-dev"),
            ("x.c:3:10: fatal error: openssl/aes.h: No such file or directory", "libssl-dev"),
            ("error: command 'gcc' failed: No such file or directory", "gcc"),
            ("unable to execute 'x86_64-linux-gnu-gcc': No such file or directory", "gcc"),
            ("error: command 'g++' not found", "g++"),
        ] {
            let remedy = remedy(line, "3.11").unwrap_or_default();
            assert!(remedy.ends_with(&format!("install {package}")), "{line}: {remedy}");
        }
    }

    #[test]
    fn other_lines_have_none() {
        for line in
            ["gcc -pthread -c a.c", "a.c:1: error: 'x' undeclared", "No such file or directory"]
        {
            assert_eq!(remedy(line, "3.11"), None, "{line}");
        }
    }
}
