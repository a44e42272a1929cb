//! What must hold whatever bytes come: each function takes some and panics where it doesn't.
//!
//! A guided fuzzer runs them for as long as one likes (the folder `fuzz` of the repository), the tests here
//! for a moment, each on its seeds and on what is near them. Part of the crate only there.

use tokio::runtime::{Builder, Runtime};

mod apps;
mod clients;
mod frames;
mod heads;
mod paths;

pub use apps::{answer, request};
pub use clients::client;
pub use frames::http2;
pub use heads::{headers, proxy};
pub use paths::{path, rewriting};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread needs nothing but memory");
}

/// Runs `future` on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// The lengths of pieces in which `bytes` may come, chosen by the first of them.
fn piece_size(bytes: &[u8]) -> usize {
    1 + usize::from(bytes.first().copied().unwrap_or_default() % 61)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    /// A change to bytes, at places that fit however many there are.
    #[derive(Debug, Clone)]
    enum Edit {
        Insert(Index, Vec<u8>),
        Remove(Index, usize),
        Replace(Index, u8),
        /// What stands at the first place is put at the second, too.
        Copy(Index, Index, usize),
    }

    /// What means something somewhere.
    const WORDS: [&str; 26] = [
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        ":",
        " ",
        "\t",
        "\0",
        ",",
        ";",
        "\"",
        "#",
        "?",
        "*",
        "/../",
        "%2e%2e/",
        "%00",
        "//",
        "chunked",
        "0\r\n\r\n",
        "5\r\nhello\r\n",
        "Host: shop.localhost\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "$1",
    ];

    fn edit() -> impl Strategy<Value = Edit> {
        let bytes = prop_oneof![
            3 => select(&WORDS[..]).prop_map(|word| word.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 1..6),
        ];
        prop_oneof![
            3 => (any::<Index>(), bytes).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
            2 => (any::<Index>(), 1_usize..12).prop_map(|(at, count)| Edit::Remove(at, count)),
            2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
            1 => (any::<Index>(), any::<Index>(), 1_usize..40)
                .prop_map(|(from, to, count)| Edit::Copy(from, to, count)),
        ]
    }

    fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
        for edit in edits {
            let length = bytes.len();
            match edit {
                Edit::Insert(at, more) => {
                    let at = at.index(length + 1);
                    bytes.splice(at..at, more.iter().copied());
                }
                Edit::Copy(from, to, count) => {
                    let (from, to) = (from.index(length + 1), to.index(length + 1));
                    let copy = bytes[from..length.min(from + count)].to_vec();
                    bytes.splice(to..to, copy);
                }
                Edit::Remove(at, count) if length > 0 => {
                    let at = at.index(length);
                    bytes.drain(at..length.min(at + count));
                }
                Edit::Replace(at, byte) if length > 0 => bytes[at.index(length)] = *byte,
                Edit::Remove(..) | Edit::Replace(..) => {}
            }
        }
        bytes
    }

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let files = std::fs::read_dir(&folder).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    /// Runs `check` on each seed of `target`, and on what is near one.
    fn hold(target: &str, check: fn(&[u8])) {
        let seeds = seeds(target);
        seeds.iter().for_each(|seed| check(seed));
        let near =
            (select(seeds), vec(edit(), 1..8)).prop_map(|(seed, edits)| edited(seed, &edits));
        let config =
            ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let result = runner.run(&near, |bytes| {
            check(&bytes);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }

    macro_rules! targets {
        ($($name:ident)*) => {$(
            #[test]
            fn $name() {
                hold(stringify!($name), super::$name);
            }
        )*};
    }

    targets! { answer client headers http2 path proxy request rewriting }
}
