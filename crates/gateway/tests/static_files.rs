//! Files that the gateway serves by itself.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::symlink;
use std::time::Duration;

use ace_types::ErrorPage;
use common::{Answer, Bench, rule};

/// A gateway for a release with some files, and no instance.
fn bench() -> Bench {
    let bench = Bench::start();
    bench.write("index.py", "source");
    bench.write("app.yaml", "version: 1");
    bench.write(".env", "secret");
    bench.write("static/site.css", "body{}");
    bench.write("static/large.bin", vec![7; 3_000_000]);
    bench.write("static/empty.txt", "");
    bench.write("static/helper.py", "source");
    bench.write("static/.hidden", "secret");
    bench.write("static/a b.txt", "space");
    bench.write("static/docs/index.html", "<p>docs</p>");
    std::fs::create_dir_all(bench.code().join("static/bare")).unwrap();
    std::fs::write(bench.folder.path().join("outside"), "secret").unwrap();
    symlink("site.css", bench.code().join("static/link.css")).unwrap();
    symlink("../../outside", bench.code().join("static/escape.txt")).unwrap();
    symlink("/etc/passwd", bench.code().join("static/passwd.txt")).unwrap();
    symlink("/proc/self/root/etc/passwd", bench.code().join("static/magic.txt")).unwrap();
    let mut route = bench.route(&[]);
    route.statics = vec![rule("/static/", "static/"), rule("/app.yaml", "app.yaml")];
    route.statics[0].expire = Some(Duration::from_secs(3600));
    bench.set_route(route);
    bench
}

async fn get(bench: &Bench, path: &str, headers: &str) -> Answer {
    bench.ask(&format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\n{headers}\r\n")).await
}

#[tokio::test]
async fn an_error_page_may_be_the_apps_own() {
    let bench = bench();
    bench.write("errors/404.html", "<h1>Lost?</h1>");
    let mut route = bench.route(&[]);
    route.statics = vec![rule("/static/", "static/")];
    let page = |status, file: &str| ErrorPage { status, file: file.to_owned() };
    route.errors = vec![page(404, "errors/404.html"), page(405, "errors/gone.html")];
    bench.set_route(route);
    let answer = get(&bench, "/static/none", "").await;
    assert_eq!((answer.status, answer.text()), (404, "<h1>Lost?</h1>"));
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("etag"), "");
    let data = get(&bench, "/static/none", "Accept: application/json\r\n").await;
    assert_eq!(data.header("content-type"), "application/json");
    let head = bench.ask("HEAD /static/none HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!((head.status, head.header("content-length")), (404, "14"));
    // Its file is gone, so the page is ours.
    let post = bench.ask("POST /static/x HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert!(post.status == 405 && post.text().starts_with("405 Method Not Allowed"));
    let other = bench.ask("GET /static/none HTTP/1.1\r\nHost: other.localhost\r\n\r\n").await;
    assert!(other.status == 404 && !other.text().contains("Lost"));
}

#[tokio::test]
async fn a_file_comes_with_all_that_describes_it() {
    let answer = bench().get("/static/site.css").await;
    assert_eq!((answer.status, answer.text()), (200, "body{}"));
    for (name, value) in [
        ("content-type", "text/css; charset=utf-8"),
        ("content-length", "6"),
        ("accept-ranges", "bytes"),
        ("cache-control", "max-age=3600"),
        ("x-content-type-options", "nosniff"),
        ("server", "ace"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    for name in ["etag", "last-modified", "expires", "date", "x-request-id"] {
        assert!(!answer.header(name).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn large_and_empty_files_are_whole() {
    let bench = bench();
    assert!(bench.get("/static/large.bin").await.body == vec![7; 3_000_000]);
    let empty = bench.get("/static/empty.txt").await;
    assert_eq!((empty.status, empty.header("content-length")), (200, "0"));
}

/// So long that it is sent in several parts, and no place of it is like another.
fn numbers() -> Vec<u8> {
    (0..750_000_u32).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test]
async fn answers_follow_each_other_to_the_byte() {
    let bench = bench();
    bench.write("static/numbers.bin", numbers());
    let ask = |method: &str, path: &str, headers: &str| {
        format!("{method} /static/{path} HTTP/1.1\r\nHost: shop.localhost\r\n{headers}\r\n")
    };
    let mut client = bench.client().await;
    let requests = [
        ask("GET", "numbers.bin", ""),
        ask("HEAD", "numbers.bin", ""),
        ask("GET", "site.css", ""),
        ask("GET", "numbers.bin", "Range: bytes=999999-2000000\r\n"),
        ask("GET", "numbers.bin", "Range: bytes=2999999-\r\n"),
        ask("GET", "large.bin", "Range: bytes=0-99999,200000-299999\r\n"),
        ask("GET", "missing", ""),
        ask("GET", "numbers.bin", "Connection: close\r\n"),
    ];
    client.send(requests.concat()).await;
    assert!(client.receive(false).await.body == numbers());
    assert_eq!(client.receive(true).await.header("content-length"), "3000000");
    assert_eq!(client.receive(false).await.text(), "body{}");
    assert!(client.receive(false).await.body == numbers()[999_999..=2_000_000]);
    assert!(client.receive(false).await.body == numbers()[2_999_999..]);
    let parts = client.receive(false).await.body;
    assert_eq!(parts.iter().filter(|byte| **byte == 7).count(), 200_000);
    assert!(!parts.contains(&0));
    assert_eq!(client.receive(false).await.status, 404);
    assert!(client.receive(false).await.body == numbers());
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_client_that_leaves_a_download_harms_nobody() {
    let bench = bench();
    bench.write("static/numbers.bin", numbers());
    let mut slow = bench.client().await;
    slow.send("GET /static/numbers.bin HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    for _ in 0..8 {
        let mut leaving = bench.client().await;
        leaving.send("GET /static/numbers.bin HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
        leaving.stream.readable().await.unwrap();
    }
    assert!(bench.get("/static/numbers.bin").await.body == numbers());
    assert!(slow.receive(false).await.body == numbers());
}

/// Releases don't change; if one does, nothing is sent in the place of what is gone.
#[tokio::test]
async fn a_file_that_became_shorter_breaks_off() {
    let bench = bench();
    assert_eq!(bench.get("/static/large.bin").await.body.len(), 3_000_000);
    let file = std::fs::File::options().write(true).open(bench.code().join("static/large.bin"));
    file.unwrap().set_len(1_500_000).unwrap();
    let mut client = bench.client().await;
    client.send("GET /static/large.bin HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert!(client.try_receive(false).await.is_none());
    assert_eq!(bench.get("/static/site.css").await.text(), "body{}");
}

#[tokio::test]
async fn a_head_tells_the_length_only() {
    let bench = bench();
    let mut client = bench.client().await;
    for _ in 0..2 {
        client.send("HEAD /static/site.css HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
        let answer = client.receive(true).await;
        assert_eq!((answer.status, answer.header("content-length")), (200, "6"));
    }
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let request = "POST /static/site.css HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";
    let answer = bench().ask(request).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn what_is_spelled_otherwise_is_the_same_file() {
    let bench = bench();
    for path in
        ["/static/link.css", "/static//site.css", "/x/../static/./%73ite.css", "/static%2fsite.css"]
    {
        assert_eq!(bench.get(path).await.text(), "body{}", "{path}");
    }
    assert_eq!(bench.get("/static/a%20b.txt").await.text(), "space");
}

#[tokio::test]
async fn nothing_leads_out_of_the_release() {
    let bench = bench();
    for (path, status) in [
        ("/static/escape.txt", 404),
        ("/static/passwd.txt", 404),
        ("/static/magic.txt", 404),
        ("/static/../../outside", 400),
        ("/static/..%2f..%2foutside", 400),
        ("/static/%2e%2e/%2e%2e/outside", 400),
        ("/static/%2e%2e%2f%2e%2e%2foutside", 400),
        ("/static/..%252f..%252foutside", 404),
        ("/static/..%5c..%5coutside", 404),
        ("/static/site.css%00.txt", 400),
        ("/static//etc/passwd", 404),
    ] {
        let answer = bench.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(!answer.text().contains("secret") && !answer.text().contains("root:"), "{path}");
    }
}

#[tokio::test]
async fn private_names_are_missing_unless_named_by_a_rule() {
    let bench = bench();
    for path in ["/static/helper.py", "/static/.hidden", "/static/missing", "/static/site.css/"] {
        assert_eq!(bench.get(path).await.status, 404, "{path}");
    }
    assert_eq!(bench.get("/app.yaml").await.text(), "version: 1");
}

#[tokio::test]
async fn a_folder_is_its_index_behind_a_slash() {
    let bench = bench();
    assert_eq!(bench.get("/static/docs/").await.text(), "<p>docs</p>");
    let answer = bench.get("/static/docs?a=b").await;
    assert_eq!((answer.status, answer.header("location")), (301, "/static/docs/?a=b"));
    assert_eq!(bench.get("//static/docs").await.header("location"), "/static/docs/");
    assert_eq!(bench.get("/static/bare/").await.status, 404);
}

#[tokio::test]
async fn a_file_the_client_has_is_not_sent_again() {
    let bench = bench();
    let first = bench.get("/static/site.css").await;
    for header in [
        format!("If-None-Match: {}\r\n", first.header("etag")),
        format!("If-Modified-Since: {}\r\n", first.header("last-modified")),
    ] {
        let answer = get(&bench, "/static/site.css", &header).await;
        assert_eq!(answer.status, 304, "{header}");
        assert_eq!(answer.header("etag"), first.header("etag"));
        assert_eq!(answer.header("cache-control"), "max-age=3600");
    }
    let other = get(&bench, "/static/site.css", "If-None-Match: \"other\"\r\n").await;
    assert_eq!(other.status, 200);
    let other = get(&bench, "/static/site.css", "If-Match: \"other\"\r\n").await;
    assert_eq!(other.status, 412);
}

#[tokio::test]
async fn a_part_of_a_file_is_sent_where_asked_for() {
    let bench = bench();
    let part = get(&bench, "/static/site.css", "Range: bytes=1-3\r\n").await;
    assert_eq!((part.status, part.text()), (206, "ody"));
    assert_eq!(part.header("content-range"), "bytes 1-3/6");
    let part = get(&bench, "/static/large.bin", "Range: bytes=-300000\r\n").await;
    assert_eq!((part.status, part.body.len()), (206, 300_000));
    let beyond = get(&bench, "/static/site.css", "Range: bytes=6-\r\n").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */6"));
    let stale = get(&bench, "/static/site.css", "Range: bytes=0-0\r\nIf-Range: \"a\"\r\n").await;
    assert_eq!((stale.status, stale.text()), (200, "body{}"));
}

#[tokio::test]
async fn several_parts_come_in_one_body() {
    let bench = bench();
    let several = get(&bench, "/static/site.css", "Range: bytes=4-,0-1,99-\r\n").await;
    let media_type = several.header("content-type");
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let part = |range, text| {
        format!(
            "\r\n--{boundary}\r\ncontent-type: text/css; charset=utf-8\r\n\
             content-range: bytes {range}/6\r\n\r\n{text}"
        )
    };
    let whole = format!("{}{}\r\n--{boundary}--\r\n", part("4-5", "{}"), part("0-1", "bo"));
    assert_eq!((several.status, several.text()), (206, whole.as_str()));
    let large = get(&bench, "/static/large.bin", "Range: bytes=0-199999,500000-\r\n").await;
    assert_eq!((large.status, large.body.len() > 700_000), (206, true));
    let overlapping = get(&bench, "/static/site.css", "Range: bytes=0-3,2-\r\n").await;
    assert_eq!((overlapping.status, overlapping.text()), (200, "body{}"));
    let head = "HEAD /static/site.css HTTP/1.1\r\nHost: shop.localhost\r\nRange: bytes=0-0\r\n\r\n";
    assert_eq!(bench.ask(head).await.status, 200);
}

#[tokio::test]
async fn a_compressed_sibling_is_sent_to_who_takes_it() {
    let bench = bench();
    bench.write("static/app.js", "a".repeat(100));
    bench.write("static/app.js.br", "br");
    bench.write("static/app.js.gz", "gzip");
    let plain = bench.get("/static/app.js").await;
    assert_eq!((plain.header("content-encoding"), plain.body.len()), ("", 100));
    assert_eq!(plain.header("vary"), "accept-encoding");
    let encoded = get(&bench, "/static/app.js", "Accept-Encoding: gzip, br\r\n").await;
    assert_eq!((encoded.header("content-encoding"), encoded.text()), ("br", "br"));
    assert_eq!(encoded.header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(
        (encoded.header("content-length"), encoded.header("vary")),
        ("2", "accept-encoding")
    );
    assert_eq!(encoded.header("last-modified"), plain.header("last-modified"));
    assert_ne!(encoded.header("etag"), plain.header("etag"));
    let gzip = get(&bench, "/static/app.js", "Accept-Encoding: br;q=0.1, gzip\r\n").await;
    assert_eq!(gzip.text(), "gzip");
    let known = format!("Accept-Encoding: br\r\nIf-None-Match: {}\r\n", encoded.header("etag"));
    let known = get(&bench, "/static/app.js", &known).await;
    assert_eq!((known.status, known.header("vary")), (304, "accept-encoding"));
    let part = get(&bench, "/static/app.js", "Accept-Encoding: gzip\r\nRange: bytes=1-2\r\n").await;
    assert_eq!((part.status, part.text()), (206, "zi"));
    assert_eq!(part.header("content-range"), "bytes 1-2/4");
}

#[tokio::test]
async fn a_hashed_name_need_not_be_asked_for_again() {
    let bench = bench();
    bench.write("static/site.5d41402abc4b.css", "body{}");
    let answer = bench.get("/static/site.5d41402abc4b.css").await;
    assert_eq!(answer.header("cache-control"), "max-age=3600, immutable");
}

#[tokio::test]
async fn a_new_release_serves_its_own_files() {
    let bench = bench();
    assert_eq!(bench.get("/static/site.css").await.text(), "body{}");
    let next = bench.folder.path().join("next");
    std::fs::create_dir_all(next.join("static")).unwrap();
    std::fs::write(next.join("static/site.css"), "main{}").unwrap();
    let mut route = bench.route(&[]);
    route.statics = vec![rule("/static/", "static/")];
    route.code = next;
    bench.set_route(route);
    assert_eq!(bench.get("/static/site.css").await.text(), "main{}");
}

#[tokio::test]
async fn what_is_not_static_is_the_apps() {
    let bench = bench();
    let app = bench.app("x", |request| request.ok("app"));
    let mut route = bench.route(&[&app]);
    route.statics = vec![rule("/static/", "static/")];
    bench.set_route(route);
    assert_eq!(bench.get("/staticfile").await.text(), "app");
    assert_eq!(bench.get("/static/../x").await.text(), "app");
    assert_eq!(bench.get("/static/missing").await.status, 404);
    assert_eq!(app.taken(), 2);
}
