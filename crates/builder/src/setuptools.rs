//! The setuptools of an environment whose requirements name none.
//!
//! `python -m venv` gave every environment one up to Python 3.11, and many a package of that time
//! imports `pkg_resources` without a word in its requirements. So they get the very version that their
//! Python brought along: a newer one lacks much of what they use. virtualenv does it for Python 2.7.

use crate::python::Python;

/// The requirement, with its hash, that belongs to `python`; `None` where it brought none.
///
/// Source: the wheel in `Lib/ensurepip/_bundled` of the last release of each.
pub fn of_its_time(python: &Python) -> Option<&'static str> {
    match python.version {
        [3, 6, _] => Some(
            "setuptools==40.6.2 \
             --hash=sha256:88ee6bcd5decec9bd902252e02e641851d785c6e5e75677d2744a9d13fed0b0a\n",
        ),
        [3, 7, _] => Some(
            "setuptools==47.1.0 \
             --hash=sha256:0e6ed68d292666370a4052af104cef4e027b4da823505b2a326f4dc1cb8eb269\n",
        ),
        [3, 8, _] => Some(
            "setuptools==56.0.0 \
             --hash=sha256:7430499900e443375ba9449a9cc5d78506b801e929fef4a186496012f93683b5\n",
        ),
        [3, 9, _] => Some(
            "setuptools==58.1.0 \
             --hash=sha256:7324fd4b66efa05cdfc9c89174573a4410acc7848f318cc0565c7fb659dfdc81\n",
        ),
        [3, 10 | 11, _] => Some(
            "setuptools==65.5.0 \
             --hash=sha256:f62ea9da9ed6289bfe868cd6845968a2c854d1427f8548d52cae02a42b4f0356\n",
        ),
        _ => None,
    }
}
