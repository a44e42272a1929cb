//! Shared objects of the system's that Python packages load, and the packages of Debian that bring them.
//!
//! Names are those of Debian 12.

/// Beginnings of their names up to the version, and the package. The first that fits counts.
const PACKAGES: &[(&str, &str)] = &[
    ("libGL.so.1", "libgl1"),
    ("libGLU.so.1", "libglu1-mesa"),
    ("libEGL.so.1", "libegl1"),
    ("libOpenGL.so.0", "libopengl0"),
    ("libICE.so.6", "libice6"),
    ("libSM.so.6", "libsm6"),
    ("libX11.so.6", "libx11-6"),
    ("libXcomposite.so.1", "libxcomposite1"),
    ("libXdamage.so.1", "libxdamage1"),
    ("libXext.so.6", "libxext6"),
    ("libXfixes.so.3", "libxfixes3"),
    ("libXi.so.6", "libxi6"),
    ("libXrandr.so.2", "libxrandr2"),
    ("libXrender.so.1", "libxrender1"),
    ("libXtst.so.6", "libxtst6"),
    ("libaio.so.1", "libaio1"),
    ("libarchive.so.13", "libarchive13"),
    ("libasound.so.2", "libasound2"),
    ("libatk-1.0.so.0", "libatk1.0-0"),
    ("libatomic.so.1", "libatomic1"),
    ("libaugeas.so.0", "libaugeas0"),
    ("libbluetooth.so.3", "libbluetooth3"),
    ("libbz2.so.1", "libbz2-1.0"),
    ("libcairo.so.2", "libcairo2"),
    ("libcups.so.2", "libcups2"),
    ("libcurl-gnutls.so.4", "libcurl3-gnutls"),
    ("libcurl.so.4", "libcurl4"),
    ("libdbus-1.so.3", "libdbus-1-3"),
    ("libenchant-2.so.2", "libenchant-2-2"),
    ("libev.so.4", "libev4"),
    ("libevent-2.1.so.7", "libevent-2.1-7"),
    ("libexpat.so.1", "libexpat1"),
    ("libffi.so.8", "libffi8"),
    ("libfontconfig.so.1", "libfontconfig1"),
    ("libfreetype.so.6", "libfreetype6"),
    ("libfribidi.so.0", "libfribidi0"),
    ("libgdk_pixbuf-2.0.so.0", "libgdk-pixbuf-2.0-0"),
    ("libgdal.so.32", "libgdal32"),
    ("libgeos_c.so.1", "libgeos-c1v5"),
    ("libgfortran.so.5", "libgfortran5"),
    ("libgio-2.0.so.0", "libglib2.0-0"),
    ("libglib-2.0.so.0", "libglib2.0-0"),
    ("libgmp.so.10", "libgmp10"),
    ("libgobject-2.0.so.0", "libglib2.0-0"),
    ("libgomp.so.1", "libgomp1"),
    ("libgssapi_krb5.so.2", "libgssapi-krb5-2"),
    ("libgthread-2.0.so.0", "libglib2.0-0"),
    ("libgtk-3.so.0", "libgtk-3-0"),
    ("libharfbuzz.so.0", "libharfbuzz0b"),
    ("libhdf5_serial.so.103", "libhdf5-103-1"),
    ("libjpeg.so.62", "libjpeg62-turbo"),
    ("libkrb5.so.3", "libkrb5-3"),
    ("liblapack.so.3", "liblapack3"),
    ("libldap-2.5.so.0", "libldap-2.5-0"),
    ("libleveldb.so.1d", "libleveldb1d"),
    ("liblzma.so.5", "liblzma5"),
    ("libmagic.so.1", "libmagic1"),
    ("libMagickWand-6.Q16.so.6", "libmagickwand-6.q16-6"),
    ("libmariadb.so.3", "libmariadb3"),
    ("libmaxminddb.so.0", "libmaxminddb0"),
    ("libmemcached.so.11", "libmemcached11"),
    ("libmpc.so.3", "libmpc3"),
    ("libmpfr.so.6", "libmpfr6"),
    ("libncurses.so.6", "libncurses6"),
    ("libncursesw.so.6", "libncursesw6"),
    ("libnspr4.so", "libnspr4"),
    ("libnss3.so", "libnss3"),
    ("libodbc.so.2", "libodbc2"),
    ("libolm.so.3", "libolm3"),
    ("libopenblas.so.0", "libopenblas0"),
    ("libopenjp2.so.7", "libopenjp2-7"),
    ("libpango-1.0.so.0", "libpango-1.0-0"),
    ("libpangocairo-1.0.so.0", "libpangocairo-1.0-0"),
    ("libpangoft2-1.0.so.0", "libpangoft2-1.0-0"),
    ("libpcap.so.0.8", "libpcap0.8"),
    ("libpcre2-8.so.0", "libpcre2-8-0"),
    ("libpng16.so.16", "libpng16-16"),
    ("libportaudio.so.2", "libportaudio2"),
    ("libpq.so.5", "libpq5"),
    ("libproj.so.25", "libproj25"),
    ("libpulse.so.0", "libpulse0"),
    ("librdkafka.so.1", "librdkafka1"),
    ("libre2.so.9", "libre2-9"),
    ("libreadline.so.8", "libreadline8"),
    ("librocksdb.so.7", "librocksdb7.8"),
    ("libsasl2.so.2", "libsasl2-2"),
    ("libsnappy.so.1", "libsnappy1v5"),
    ("libsndfile.so.1", "libsndfile1"),
    ("libsodium.so.23", "libsodium23"),
    ("libspatialindex_c.so.6", "libspatialindex-c6"),
    ("libspatialite.so.7", "libspatialite7"),
    ("libsqlite3.so.0", "libsqlite3-0"),
    ("libssl.so.3", "libssl3"),
    ("libsystemd.so.0", "libsystemd0"),
    ("libtcl8.6.so", "libtcl8.6"),
    ("libtesseract.so.5", "libtesseract5"),
    ("libtidy.so.5", "libtidy5deb1"),
    ("libtiff.so.6", "libtiff6"),
    ("libtinfo.so.6", "libtinfo6"),
    ("libtk8.6.so", "libtk8.6"),
    ("libusb-1.0.so.0", "libusb-1.0-0"),
    ("libuuid.so.1", "libuuid1"),
    ("libuv.so.1", "libuv1"),
    ("libvips.so.42", "libvips42"),
    ("libvirt.so.0", "libvirt0"),
    ("libwebp.so.7", "libwebp7"),
    ("libxcb.so.1", "libxcb1"),
    ("libxkbcommon.so.0", "libxkbcommon0"),
    ("libxml2.so.2", "libxml2"),
    ("libxmlsec1.so.1", "libxmlsec1"),
    ("libxslt.so.1", "libxslt1.1"),
    ("libyaml-0.so.2", "libyaml-0-2"),
    ("libz.so.1", "zlib1g"),
    ("libzbar.so.0", "libzbar0"),
    ("libzmq.so.5", "libzmq5"),
    ("libzstd.so.1", "libzstd1"),
    // By the names that packages which load them themselves give to them.
    ("libmagic", "libmagic1"),
    ("pango-1.0", "libpango-1.0-0"),
    ("libpango-1.0-0", "libpango-1.0-0"),
    ("pangoft2-1.0", "libpangoft2-1.0-0"),
    ("gobject-2.0", "libglib2.0-0"),
    ("libgobject-2.0-0", "libglib2.0-0"),
    ("cairo-2", "libcairo2"),
    ("libcairo-2", "libcairo2"),
    ("zbar", "libzbar0"),
    ("enchant", "libenchant-2-2"),
    ("spatialindex_c", "libspatialindex-c6"),
    ("sndfile", "libsndfile1"),
];

/// What loaders say of a shared object that they don't find, before its name and after it.
const SENTENCES: &[(&str, &str)] = &[
    ("", ": cannot open shared object file"),
    ("cannot load library '", "'"),
    ("no library called \"", "\""),
    ("did not manage to locate a library called '", "'"),
    ("failed to find ", "."),
];

/// The shared object that `line` says is not there, and the package of Debian that brings it.
pub fn missing_in(line: &str) -> Option<(&str, &'static str)> {
    SENTENCES.iter().find_map(|(before, after)| {
        let (start, _) = line.split_once(after).filter(|_| line.contains(before))?;
        let name = match *before {
            "" => start.rsplit([' ', '(']).next()?,
            before => line.split_once(before)?.1.split_once(after)?.0,
        };
        Some((name, package(name)?))
    })
}

fn package(name: &str) -> Option<&'static str> {
    let is_it = |(object, _): &&(&str, &str)| {
        name.strip_prefix(object).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    PACKAGES.iter().find(is_it).map(|(_, package)| *package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_object_that_is_not_found_has_its_package() {
        for (line, package) in [
            (
                "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
                "libgl1",
            ),
            (
                "OSError: libgobject-2.0.so.0: cannot open shared object file: No such file",
                "libglib2.0-0",
            ),
            (
                "OSError: cannot load library 'libpango-1.0-0': libpango-1.0-0: cannot open shared \
                 object file: No such file or directory.  Additionally, ctypes.util.find_library() did \
                 not manage to locate a library called 'libpango-1.0-0'",
                "libpango-1.0-0",
            ),
            ("OSError: no library called \"cairo-2\" was found", "libcairo2"),
            ("ImportError: failed to find libmagic.  Check your installation", "libmagic1"),
            ("libpq.so.5.15: cannot open shared object file", "libpq5"),
        ] {
            assert_eq!(missing_in(line).map(|(_, package)| package), Some(package), "{line}");
        }
    }

    #[test]
    fn others_have_none() {
        for line in [
            "",
            "libGL.so.1",
            "ImportError: libshop.so.1: cannot open shared object file: No such file or directory",
            "libGL.so.12: cannot open shared object file",
            "could not find shop: failed to find it.",
        ] {
            assert_eq!(missing_in(line), None, "{line}");
        }
    }
}
