//! Which package of Debian brings a header, a library or a program.
//!
//! Names are those of Debian 12; Ubuntu's are the same for nearly all.

/// A package for those who compile.
struct Development {
    name: &'static str,
    /// Its headers, between spaces, as they are included; a folder of them ends in `/`.
    headers: &'static str,
    /// What linkers (`-lX`), pkg-config, CMake and Meson call it, between spaces, whatever the case.
    names: &'static str,
}

const fn of(name: &'static str, headers: &'static str, names: &'static str) -> Development {
    Development { name, headers, names }
}

const DEVELOPMENT: &[Development] = &[
    of("apache2-dev", "httpd.h http_config.h", ""),
    of("default-libmysqlclient-dev", "mysql.h mysql/", "mysqlclient mysql"),
    of("firebird-dev", "ibase.h", "fbclient"),
    of("freetds-dev", "ctpublic.h cspublic.h sqlfront.h sybdb.h sybfront.h", "sybdb ct freetds"),
    of("libacl1-dev", "sys/acl.h acl/", "acl libacl"),
    of("libaio-dev", "libaio.h", "aio"),
    of("libapr1-dev", "apr.h apr-1.0/", "apr-1"),
    of("libarchive-dev", "archive.h archive_entry.h", "archive libarchive"),
    of("libasound2-dev", "alsa/", "asound alsa"),
    of("libattr1-dev", "attr/", "attr libattr"),
    of("libaugeas-dev", "augeas.h", "augeas"),
    of("libavcodec-dev", "libavcodec/", "avcodec libavcodec"),
    of("libavdevice-dev", "libavdevice/", "avdevice libavdevice"),
    of("libavfilter-dev", "libavfilter/", "avfilter libavfilter"),
    of("libavformat-dev", "libavformat/", "avformat libavformat ffmpeg"),
    of("libavutil-dev", "libavutil/", "avutil libavutil"),
    of("libblas-dev", "cblas.h", "blas cblas"),
    of("libblosc-dev", "blosc.h", "blosc"),
    of("libbluetooth-dev", "bluetooth/", "bluetooth bluez"),
    of("libboost-all-dev", "boost/", "boost boost_python boost_system boost_filesystem"),
    of("libbrotli-dev", "brotli/", "brotlienc brotlidec libbrotlienc libbrotlidec"),
    of("libbsd-dev", "bsd/", "bsd libbsd"),
    of("libbz2-dev", "bzlib.h", "bz2 bzip2"),
    of("libcairo2-dev", "cairo.h cairo/", "cairo cairo-gobject py3cairo"),
    of("libcap-dev", "sys/capability.h", "cap libcap"),
    of("libcups2-dev", "cups/", "cups"),
    of("libcurl4-openssl-dev", "curl/", "curl libcurl"),
    of("libdb-dev", "db.h", "db berkeleydb"),
    of("libdbus-1-dev", "dbus/", "dbus-1 dbus"),
    of("libdbus-glib-1-dev", "dbus/dbus-glib.h", "dbus-glib-1"),
    of("libenchant-2-dev", "enchant.h", "enchant enchant-2"),
    of("libev-dev", "ev.h", "ev libev"),
    of("libevent-dev", "event.h event2/", "event libevent"),
    of("libexpat1-dev", "expat.h", "expat"),
    of("libffi-dev", "ffi.h ffi/", "ffi libffi"),
    of("libfftw3-dev", "fftw3.h", "fftw3 fftw"),
    of("libfontconfig-dev", "fontconfig/", "fontconfig"),
    of("libfreetype-dev", "ft2build.h freetype/", "freetype freetype2"),
    of("libfribidi-dev", "fribidi.h fribidi/", "fribidi"),
    of("libfuse-dev", "fuse.h fuse/", "fuse"),
    of("libgdal-dev", "gdal.h gdal_priv.h cpl_port.h cpl_conv.h ogr_api.h", "gdal"),
    of("libgdbm-dev", "gdbm.h", "gdbm"),
    of("libgeos-dev", "geos_c.h geos.h geos/", "geos geos_c"),
    of("libgirepository1.0-dev", "girepository.h", "gobject-introspection-1.0 girepository-1.0"),
    of("libgit2-dev", "git2.h git2/", "git2 libgit2"),
    of("libgl-dev", "GL/gl.h GL/glx.h", "gl opengl"),
    of(
        "libglib2.0-dev",
        "glib.h glib/ glib-object.h gio/",
        "glib-2.0 gobject-2.0 gio-2.0 gio-unix-2.0",
    ),
    of("libgmp-dev", "gmp.h", "gmp"),
    of("libgnutls28-dev", "gnutls/", "gnutls"),
    of("libgpgme-dev", "gpgme.h", "gpgme"),
    of("libgraphviz-dev", "graphviz/", "cgraph gvc cdt libgvc libcgraph"),
    of("libgsl-dev", "gsl/", "gsl gslcblas"),
    of("libgtk-3-dev", "gtk/", "gtk+-3.0 gtk-3"),
    of("libharfbuzz-dev", "hb.h harfbuzz/", "harfbuzz"),
    of("libhdf5-dev", "hdf5.h", "hdf5"),
    of("libhiredis-dev", "hiredis/", "hiredis"),
    of("libicu-dev", "unicode/", "icuuc icui18n icudata icu-uc icu-i18n icu"),
    of("libimagequant-dev", "libimagequant.h", "imagequant"),
    of("libjansson-dev", "jansson.h", "jansson"),
    of("libjpeg-dev", "jpeglib.h jerror.h", "jpeg libjpeg"),
    of(
        "libkrb5-dev",
        "krb5.h gssapi.h gssapi/ com_err.h",
        "krb5 gssapi_krb5 gssapi krb5-gssapi k5crypto com_err",
    ),
    of("liblapack-dev", "lapacke.h", "lapack lapacke"),
    of("liblcms2-dev", "lcms2.h", "lcms2"),
    of("libldap-dev", "ldap.h lber.h", "ldap ldap_r lber"),
    of("libleveldb-dev", "leveldb/", "leveldb"),
    of("liblmdb-dev", "lmdb.h", "lmdb"),
    of("libltdl-dev", "ltdl.h", "ltdl"),
    of("liblz4-dev", "lz4.h lz4frame.h lz4hc.h", "lz4 liblz4"),
    of("liblzma-dev", "lzma.h", "lzma liblzma"),
    of("liblzo2-dev", "lzo/", "lzo2 lzo"),
    of("libmagic-dev", "magic.h", "magic libmagic"),
    of("libmagickwand-dev", "wand/ MagickWand/ Magick++.h", "magickwand imagemagick"),
    of("libmariadb-dev", "mariadb/", "mariadb libmariadb"),
    of("libmaxminddb-dev", "maxminddb.h", "maxminddb libmaxminddb"),
    of("libmemcached-dev", "libmemcached/", "memcached libmemcached"),
    of("libmpc-dev", "mpc.h", "mpc"),
    of("libmpfr-dev", "mpfr.h", "mpfr"),
    of("libmsgpack-dev", "msgpack.h", "msgpack msgpackc"),
    of(
        "libncurses-dev",
        "curses.h ncurses.h ncurses/ term.h panel.h",
        "ncurses ncursesw curses tinfo panel panelw",
    ),
    of("libnetcdf-dev", "netcdf.h", "netcdf"),
    of("libnl-3-dev", "netlink/", "nl-3 libnl-3.0"),
    of("libnuma-dev", "numa.h", "numa"),
    of("libopenblas-dev", "openblas_config.h", "openblas"),
    of("libopenjp2-7-dev", "openjpeg.h", "openjp2 libopenjp2 openjpeg"),
    of("libopenmpi-dev", "mpi.h", "mpi openmpi"),
    of("libopus-dev", "opus/", "opus"),
    of("libpam0g-dev", "security/", "pam"),
    of("libpango1.0-dev", "pango/", "pango pango-1.0 pangocairo pangocairo-1.0 pangoft2-1.0"),
    of("libpcap-dev", "pcap.h pcap/", "pcap libpcap"),
    of("libpcre2-dev", "pcre2.h", "pcre2-8 libpcre2-8 pcre2"),
    of("libpcre3-dev", "pcre.h", "pcre libpcre"),
    of("libpng-dev", "png.h", "png libpng png16"),
    of("libpoppler-cpp-dev", "poppler/", "poppler-cpp poppler"),
    of("libpq-dev", "libpq-fe.h postgres_ext.h pg_config.h libpq/", "pq libpq postgresql"),
    of("libproj-dev", "proj.h proj_api.h", "proj"),
    of("libprotobuf-dev", "google/protobuf/", "protobuf"),
    of("libpulse-dev", "pulse/", "pulse libpulse"),
    of("libqpdf-dev", "qpdf/", "qpdf libqpdf"),
    of("librabbitmq-dev", "amqp.h rabbitmq-c/", "rabbitmq librabbitmq"),
    of("libraqm-dev", "raqm.h", "raqm"),
    of("librdkafka-dev", "librdkafka/", "rdkafka"),
    of("libre2-dev", "re2/", "re2"),
    of("libreadline-dev", "readline/", "readline"),
    of("librocksdb-dev", "rocksdb/", "rocksdb"),
    of("librrd-dev", "rrd.h", "rrd librrd"),
    of("librsync-dev", "librsync.h", "rsync"),
    of("libsasl2-dev", "sasl/ sasl.h", "sasl2 libsasl2"),
    of("libseccomp-dev", "seccomp.h", "seccomp libseccomp"),
    of("libselinux1-dev", "selinux/", "selinux libselinux"),
    of("libsmbclient-dev", "libsmbclient.h", "smbclient"),
    of("libsnappy-dev", "snappy.h snappy-c.h", "snappy"),
    of("libsndfile1-dev", "sndfile.h", "sndfile"),
    of("libsnmp-dev", "net-snmp/", "netsnmp snmp"),
    of("libsodium-dev", "sodium.h", "sodium libsodium"),
    of("libspatialindex-dev", "spatialindex/", "spatialindex spatialindex_c"),
    of("libsqlcipher-dev", "sqlcipher/", "sqlcipher"),
    of("libsqlite3-dev", "sqlite3.h", "sqlite3 sqlite"),
    of("libssh-dev", "libssh/", "ssh libssh"),
    of("libssh2-1-dev", "libssh2.h", "ssh2 libssh2"),
    of("libssl-dev", "openssl/", "ssl crypto openssl libssl libcrypto"),
    of("libsvn-dev", "svn_client.h subversion-1/", "svn_client-1"),
    of("libswscale-dev", "libswscale/", "swscale libswscale"),
    of("libsystemd-dev", "systemd/", "systemd libsystemd"),
    of("libtbb-dev", "tbb/", "tbb"),
    of("libtesseract-dev", "tesseract/", "tesseract"),
    of("libleptonica-dev", "leptonica/", "lept"),
    of("libtidy-dev", "tidy.h", "tidy"),
    of("libtiff-dev", "tiff.h tiffio.h", "tiff libtiff libtiff-4"),
    of("libtokyocabinet-dev", "tcutil.h tchdb.h", "tokyocabinet"),
    of("libudev-dev", "libudev.h", "udev libudev"),
    of("libunistring-dev", "unistr.h", "unistring"),
    of("libunwind-dev", "libunwind.h", "unwind libunwind"),
    of("libusb-1.0-0-dev", "libusb.h libusb-1.0/", "usb-1.0 libusb libusb-1.0"),
    of("libusb-dev", "usb.h", "usb"),
    of("libuv1-dev", "uv.h uv/", "uv libuv"),
    of("libvips-dev", "vips/", "vips"),
    of("libvirt-dev", "libvirt/", "virt libvirt"),
    of("libvpx-dev", "vpx/", "vpx"),
    of("libwebp-dev", "webp/", "webp libwebp"),
    of("libx11-dev", "X11/Xlib.h X11/Xutil.h X11/X.h", "x11"),
    of("libxapian-dev", "xapian.h", "xapian xapian-core"),
    of("libxcb1-dev", "xcb/", "xcb"),
    of("libxext-dev", "X11/extensions/", "xext"),
    of("libxml2-dev", "libxml/", "xml2 libxml-2.0 libxml2"),
    of("libxmlsec1-dev", "xmlsec/", "xmlsec1 xmlsec1-openssl"),
    of("libxslt1-dev", "libxslt/ libexslt/", "xslt exslt libxslt libexslt"),
    of("libxtst-dev", "X11/extensions/XTest.h", "xtst"),
    of("libyaml-dev", "yaml.h", "yaml yaml-0.1"),
    of("libzbar-dev", "zbar.h", "zbar"),
    of("libzmq3-dev", "zmq.h", "zmq libzmq"),
    of("libzstd-dev", "zstd.h zdict.h", "zstd libzstd"),
    of("libaspell-dev", "aspell.h", "aspell"),
    of("libhunspell-dev", "hunspell.hxx hunspell/", "hunspell hunspell-1.7"),
    of("libde265-dev", "libde265/", "de265"),
    of("libheif-dev", "libheif/", "heif libheif"),
    of("libexiv2-dev", "exiv2/", "exiv2"),
    of("libolm-dev", "olm/", "olm"),
    of("libsecp256k1-dev", "secp256k1.h", "secp256k1 libsecp256k1"),
    of("libnspr4-dev", "nspr.h nspr/", "nspr4 nspr"),
    of("libnss3-dev", "nss/", "nss3 nss"),
    of("portaudio19-dev", "portaudio.h", "portaudio portaudio-2.0"),
    of("tcl-dev", "tcl.h", "tcl"),
    of("tk-dev", "tk.h", "tk"),
    of("unixodbc-dev", "sql.h sqlext.h sqltypes.h odbcinst.h", "odbc unixodbc"),
    of("uuid-dev", "uuid.h uuid/", "uuid"),
    of("zlib1g-dev", "zlib.h zconf.h", "z zlib"),
    of(
        "libc6-dev",
        "stdio.h stdlib.h string.h limits.h features.h sys/types.h crypt.h",
        "c m pthread dl rt crypt util",
    ),
    of("libstdc++-12-dev", "iostream vector string cstdint algorithm", "stdc++"),
    of("linux-libc-dev", "linux/ asm/", ""),
];

/// Programs that builds run, and their packages.
const PROGRAMS: &[(&str, &str)] = &[
    ("aclocal", "automake"),
    ("ant", "ant"),
    ("apxs", "apache2-dev"),
    ("apxs2", "apache2-dev"),
    ("ar", "binutils"),
    ("as", "binutils"),
    ("asciidoc", "asciidoc"),
    ("autoconf", "autoconf"),
    ("automake", "automake"),
    ("autoreconf", "autoconf"),
    ("bison", "bison"),
    ("bzip2", "bzip2"),
    ("bzr", "brz"),
    ("c++", "g++"),
    ("cargo", "cargo"),
    ("cc", "gcc"),
    ("clang", "clang"),
    ("clang++", "clang"),
    ("cmake", "cmake"),
    ("cups-config", "libcups2-dev"),
    ("curl", "curl"),
    ("curl-config", "libcurl4-openssl-dev"),
    ("dot", "graphviz"),
    ("doxygen", "doxygen"),
    ("ffmpeg", "ffmpeg"),
    ("flex", "flex"),
    ("freetype-config", "libfreetype-dev"),
    ("g++", "g++"),
    ("gcc", "gcc"),
    ("gdal-config", "libgdal-dev"),
    ("geos-config", "libgeos-dev"),
    ("gettext", "gettext"),
    ("gfortran", "gfortran"),
    ("git", "git"),
    ("glib-mkenums", "libglib2.0-dev-bin"),
    ("go", "golang-go"),
    ("gpg", "gnupg"),
    ("gpgme-config", "libgpgme-dev"),
    ("gperf", "gperf"),
    ("gsl-config", "libgsl-dev"),
    ("h5cc", "libhdf5-dev"),
    ("hg", "mercurial"),
    ("icu-config", "libicu-dev"),
    ("java", "default-jre-headless"),
    ("javac", "default-jdk-headless"),
    ("krb5-config", "libkrb5-dev"),
    ("ld", "binutils"),
    ("lex", "flex"),
    ("libtoolize", "libtool"),
    ("llvm-config", "llvm-dev"),
    ("m4", "m4"),
    ("magick", "imagemagick"),
    ("make", "make"),
    ("mariadb_config", "libmariadb-dev"),
    ("meson", "meson"),
    ("mpicc", "libopenmpi-dev"),
    ("msgfmt", "gettext"),
    ("mysql_config", "default-libmysqlclient-dev"),
    ("nasm", "nasm"),
    ("nc-config", "libnetcdf-dev"),
    ("net-snmp-config", "libsnmp-dev"),
    ("ninja", "ninja-build"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("odbc_config", "unixodbc-dev"),
    ("openssl", "openssl"),
    ("pandoc", "pandoc"),
    ("patch", "patch"),
    ("patchelf", "patchelf"),
    ("pcre-config", "libpcre3-dev"),
    ("perl", "perl"),
    ("pg_config", "libpq-dev"),
    ("php", "php-cli"),
    ("pkg-config", "pkg-config"),
    ("pkgconf", "pkg-config"),
    ("proj", "proj-bin"),
    ("protoc", "protobuf-compiler"),
    ("qmake", "qt5-qmake"),
    ("R", "r-base-dev"),
    ("ragel", "ragel"),
    ("rst2man", "python3-docutils"),
    ("rsync", "rsync"),
    ("ruby", "ruby"),
    ("rustc", "rustc"),
    ("scons", "scons"),
    ("sdl2-config", "libsdl2-dev"),
    ("svn", "subversion"),
    ("swig", "swig"),
    ("tar", "tar"),
    ("unzip", "unzip"),
    ("wget", "wget"),
    ("xapian-config", "libxapian-dev"),
    ("xml2-config", "libxml2-dev"),
    ("xmlsec1-config", "libxmlsec1-dev"),
    ("xslt-config", "libxslt1-dev"),
    ("xz", "xz-utils"),
    ("yacc", "bison"),
    ("yarn", "yarnpkg"),
    ("yasm", "yasm"),
    ("zip", "zip"),
];

/// The package with the header `path`, such as `libxml/parser.h`.
pub fn with_header(path: &str) -> Option<&'static str> {
    let is_it = |entry: &str| entry == path;
    let holds_it = |entry: &str| entry.ends_with('/') && path.starts_with(entry);
    // One that is named goes before its folder's.
    find(|package| package.headers, is_it).or_else(|| find(|package| package.headers, holds_it))
}

/// The package that linkers, pkg-config, CMake or Meson know as `name`.
pub fn known_as(name: &str) -> Option<&'static str> {
    find(|package| package.names, |entry| entry.eq_ignore_ascii_case(name))
}

/// The package with the program `name`: `gcc`, `x86_64-linux-gnu-gcc`, `/usr/bin/gcc`.
pub fn with_program(name: &str) -> Option<&'static str> {
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.split_once("-linux-gnu-").map_or(name, |(_, name)| name);
    PROGRAMS.iter().find(|(program, _)| *program == name).map(|(_, package)| *package)
}

fn find(
    field: impl Fn(&'static Development) -> &'static str,
    is_it: impl Fn(&str) -> bool,
) -> Option<&'static str> {
    let package =
        DEVELOPMENT.iter().find(|package| field(package).split_whitespace().any(&is_it))?;
    Some(package.name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_is_brought_by_two_packages() {
        let headers: Vec<_> = DEVELOPMENT.iter().map(|package| package.headers).collect();
        let names: Vec<_> = DEVELOPMENT.iter().map(|package| package.names).collect();
        for column in [headers, names] {
            let mut known = BTreeSet::new();
            for name in column.iter().flat_map(|all| all.split_whitespace()) {
                assert!(known.insert(name.to_ascii_lowercase()), "{name}");
            }
        }
        let programs: BTreeSet<_> = PROGRAMS.iter().map(|(program, _)| program).collect();
        assert_eq!(programs.len(), PROGRAMS.len());
    }

    #[test]
    fn a_header_has_its_package_by_its_name_or_its_folder() {
        for (header, package) in [
            ("lber.h", Some("libldap-dev")),
            ("libxml/xmlversion.h", Some("libxml2-dev")),
            ("dbus/dbus.h", Some("libdbus-1-dev")),
            ("dbus/dbus-glib.h", Some("libdbus-glib-1-dev")),
            ("X11/extensions/XTest.h", Some("libxtst-dev")),
            ("X11/extensions/Xext.h", Some("libxext-dev")),
            ("shop.h", None),
            ("", None),
        ] {
            assert_eq!(with_header(header), package, "{header}");
        }
    }

    #[test]
    fn libraries_and_programs_have_theirs() {
        assert_eq!(known_as("LibXml2"), Some("libxml2-dev"));
        assert_eq!(known_as(""), None);
        for name in ["gcc", "x86_64-linux-gnu-gcc", "/usr/bin/cc"] {
            assert_eq!(with_program(name), Some("gcc"), "{name}");
        }
        assert_eq!(with_program("shop-config"), None);
    }
}
