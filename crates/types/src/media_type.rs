//! What a file is, by its name's extension, and whether it is worth compressing.

use std::borrow::Cow;

/// The media type of a file named `name`; `None` where its extension is not known.
///
/// Text comes with `charset=utf-8`. A short table says what the web is made of as browsers want it
/// today; `mime_guess` knows the rest.
/// Source: <https://www.iana.org/assignments/media-types/>.
pub fn media_type(name: &[u8]) -> Option<Cow<'static, str>> {
    let dot = name.iter().rposition(|byte| *byte == b'.')?;
    let extension = std::str::from_utf8(&name[dot + 1..]).ok()?.to_ascii_lowercase();
    let ours = TYPES.binary_search_by_key(&extension.as_str(), |(extension, _)| extension);
    if let Ok(index) = ours {
        return Some(Cow::Borrowed(TYPES[index].1));
    }
    let guess = mime_guess::from_ext(&extension).first_raw()?;
    Some(match guess.starts_with("text/") {
        true => Cow::Owned(format!("{guess}; charset=utf-8")),
        false => Cow::Borrowed(guess),
    })
}

/// Whether files of this type get much smaller by compressing them: pictures, films, sound, most
/// fonts and archives have been compressed already.
pub fn is_compressible(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim_end();
    essence.starts_with("text/")
        || essence.ends_with("+xml")
        || essence.ends_with("+json")
        || COMPRESSIBLE.contains(&essence)
}

const COMPRESSIBLE: &[&str] = &[
    "application/javascript",
    "application/json",
    "application/rtf",
    "application/toml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/xml",
    "application/yaml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/x-icon",
];

/// By extension, in order.
const TYPES: &[(&str, &str)] = &[
    ("7z", "application/x-7z-compressed"),
    ("aac", "audio/aac"),
    ("atom", "application/atom+xml; charset=utf-8"),
    ("avif", "image/avif"),
    ("bin", "application/octet-stream"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("eot", "application/vnd.ms-fontobject"),
    ("epub", "application/epub+zip"),
    ("flac", "audio/flac"),
    ("geojson", "application/geo+json"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonld", "application/ld+json"),
    ("jxl", "image/jxl"),
    ("m4a", "audio/mp4"),
    ("m4v", "video/x-m4v"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("rar", "application/vnd.rar"),
    ("rss", "application/rss+xml; charset=utf-8"),
    ("rtf", "application/rtf"),
    ("svg", "image/svg+xml; charset=utf-8"),
    ("tar", "application/x-tar"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("toml", "application/toml"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("whl", "application/zip"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml; charset=utf-8"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "text/xml; charset=utf-8"),
    ("xz", "application/x-xz"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_extension_counts_in_any_case() {
        let of = |name: &[u8]| media_type(name).map(Cow::into_owned);
        assert_eq!(of(b"a.tar.GZ").as_deref(), Some("application/gzip"));
        assert_eq!(of(b"site.css").as_deref(), Some("text/css; charset=utf-8"));
        assert_eq!(of(b"a.tsv").as_deref(), Some("text/tab-separated-values; charset=utf-8"));
        assert_eq!(of(b"a.odt").as_deref(), Some("application/vnd.oasis.opendocument.text"));
        assert_eq!(of(b"LICENSE"), None);
        assert_eq!(of(b"a.\xff"), None);
    }

    #[test]
    fn what_is_compressed_already_is_left_alone() {
        let compressible = |name: &[u8]| is_compressible(&media_type(name).unwrap());
        for name in
            ["a.css", "a.svg", "a.json", "a.wasm", "a.webmanifest", "a.ttf", "a.xhtml", "a.yml"]
        {
            assert!(compressible(name.as_bytes()), "{name}");
        }
        for name in ["a.png", "a.woff2", "a.gz", "a.mp4", "a.zip", "a.br"] {
            let known = media_type(name.as_bytes()).is_some();
            assert!(!known || !compressible(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn the_table_can_be_searched() {
        assert!(TYPES.is_sorted_by(|(one, _), (other, _)| one < other));
    }
}
