//! On Python 2.7, 3.6 and 3.8.

use ace_testkit::Answer;
use anyhow::{Context, Result, ensure};

use crate::kit::{self, RealApp, expect_status, put_to_use, shows};

#[test]
fn a_webdav_share_on_python_2_7() -> Result<()> {
    put_to_use("wsgidav", fill_share, check_share)
}

#[test]
fn a_package_index_on_python_2_7() -> Result<()> {
    put_to_use("pypiserver", upload_package, |app| {
        shows(&app.get("/simple/")?, &["shop"])?;
        shows(&app.get("/simple/shop/")?, &["shop-1.0.tar.gz#md5="])?;
        shows(&app.get("/packages/shop-1.0.tar.gz")?, &["a shop, packed"])
    })
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_wiki_on_python_2_7() -> Result<()> {
    let fill = |app: &RealApp| {
        let form = app.get("/Caf%C3%A9?action=edit")?;
        let ticket = kit::hidden(&form, "ticket")?;
        let fields = [
            ("action", "edit"),
            ("rev", "0"),
            ("ticket", &ticket),
            ("button_save", "Save Changes"),
            ("savetext", "Crème brûlée, '''every''' day"),
        ];
        shows(&app.submit("/Caf%C3%A9", "", &fields)?, &["Thank you for your changes"])
    };
    put_to_use("moin", fill, |app| {
        shows(&app.get("/Caf%C3%A9")?, &["Crème brûlée, <strong>every</strong> day"])?;
        shows(&app.get("/moin_static1911/common/js/common.js")?, &["function"])?;
        expect_status(&app.get("/Nowhere")?, 404)
    })
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_calendar_on_python_2_7() -> Result<()> {
    put_to_use(
        "radicale",
        |app| fill_calendar(app, "/me/work.ics/"),
        |app| {
            shows(
                &query_calendar(app, "/me/work.ics/")?,
                &["<href>/me/work.ics/1.ics</href>", "SUMMARY:Meet"],
            )
        },
    )
}

#[test]
#[ignore = "fetches a whole application from the package index"]
fn a_project_site_on_python_2_7() -> Result<()> {
    let fill = |app: &RealApp| {
        let form = app.get("/wiki/Plans?action=edit")?;
        let token = kit::hidden(&form, "__FORM_TOKEN")?;
        let fields = [
            ("__FORM_TOKEN", token.as_str()),
            ("action", "edit"),
            ("version", "0"),
            ("text", "= Plans =\nMore ''snow''."),
            ("save", "Submit changes"),
        ];
        let saved = app.submit("/wiki/Plans", &kit::cookies(&form), &fields)?;
        expect_status(&saved, 303)?;
        let page = format!("http://{}/wiki/Plans", app.host());
        ensure!(saved.header("location") == Some(page.as_str()), "{saved:?}");
        Ok(())
    };
    put_to_use("trac", fill, |app| {
        shows(&app.get("/wiki/Plans")?, &["More <em>snow</em>."])?;
        shows(&app.get("/chrome/common/css/trac.css")?, &["body"])?;
        shows(&app.get("/about")?, &["Trac"])
    })
}

/// Signs in as the share's only user.
const TESTER: (&str, &str) = ("Authorization", "Basic dGVzdGVyOnNlY3JldA==");

/// Uploads a file, makes a folder, and copies the file into it.
fn fill_share(app: &RealApp) -> Result<()> {
    expect_status(&app.get("/")?, 401)?;
    let in_chunks = [TESTER, ("Transfer-Encoding", "chunked")];
    let body = "5\r\nhello\r\n7\r\n, share\r\n0\r\n\r\n";
    expect_status(&app.send("PUT", "/na%C3%AFve%20note.txt", &in_chunks, body)?, 201)?;
    expect_status(&app.send("MKCOL", "/sub", &[TESTER], "")?, 201)?;
    let destination = format!("http://{}/sub/copy.txt", app.host());
    let headers = [TESTER, ("Destination", &destination)];
    expect_status(&app.send("COPY", "/na%C3%AFve%20note.txt", &headers, "")?, 201)
}

/// Lists the share, reads a part of a file, and locks it.
fn check_share(app: &RealApp) -> Result<()> {
    let listed = app.send("PROPFIND", "/", &[TESTER, ("Depth", "infinity")], "")?;
    expect_status(&listed, 207)?;
    shows(&listed, &["/na%C3%AFve%20note.txt<", "/sub/copy.txt<"])?;
    let near = app.send("PROPFIND", "/", &[TESTER, ("Depth", "1")], "")?;
    ensure!(!near.text().contains("copy.txt"), "{}", near.text());
    let part = app.send("GET", "/sub/copy.txt", &[TESTER, ("Range", "bytes=7-11")], "")?;
    expect_status(&part, 206)?;
    ensure!(
        part.text() == "share" && part.header("content-range") == Some("bytes 7-11/12"),
        "{part:?}"
    );
    let head = app.send("HEAD", "/sub/copy.txt", &[TESTER], "")?;
    ensure!(head.header("content-length") == Some("12"), "{head:?}");
    lock(app)
}

/// Locks a file, finds it locked, and unlocks it.
fn lock(app: &RealApp) -> Result<()> {
    let body = "<?xml version=\"1.0\"?><lockinfo xmlns=\"DAV:\"><lockscope><exclusive/></lockscope>\
                <locktype><write/></locktype><owner>me</owner></lockinfo>";
    let locked = app.send("LOCK", "/sub/copy.txt", &[TESTER, ("Timeout", "Second-60")], body)?;
    let token = locked.header("lock-token").with_context(|| format!("no token: {locked:?}"))?;
    expect_status(&app.send("PUT", "/sub/copy.txt", &[TESTER], "mine")?, 423)?;
    let unlocked = app.send("UNLOCK", "/sub/copy.txt", &[TESTER, ("Lock-Token", token)], "")?;
    expect_status(&unlocked, 204)
}

/// As `setup.py upload` and twine do.
fn upload_package(app: &RealApp) -> Result<()> {
    let part = |disposition: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n")
    };
    let body = [
        part("name=\":action\"", "file_upload"),
        part("name=\"content\"; filename=\"shop-1.0.tar.gz\"", "a shop, packed"),
        "--b--\r\n".to_owned(),
    ];
    let kind = ("Content-Type", "multipart/form-data; boundary=b");
    expect_status(&app.send("POST", "/", &[kind], body.concat())?, 200)
}

const EVENT: &str = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:1\r\n\
                     SUMMARY:Meet\r\nDTSTAMP:20260101T090000Z\r\nDTSTART:20260101T100000Z\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";

/// Makes a calendar with one event.
fn fill_calendar(app: &RealApp, calendar: &str) -> Result<()> {
    let body = "<?xml version=\"1.0\"?><C:mkcalendar xmlns:D=\"DAV:\" \
                xmlns:C=\"urn:ietf:params:xml:ns:caldav\"><D:set><D:prop><D:displayname>Work\
                </D:displayname></D:prop></D:set></C:mkcalendar>";
    expect_status(&app.send("MKCALENDAR", calendar, &[], body)?, 201)?;
    let event = format!("{calendar}1.ics");
    expect_status(&app.send("PUT", &event, &[("Content-Type", "text/calendar")], EVENT)?, 201)
}

/// Asks for all events of a calendar, as a client does to synchronise.
fn query_calendar(app: &RealApp, calendar: &str) -> Result<Answer> {
    let body = "<?xml version=\"1.0\"?><C:calendar-query xmlns:D=\"DAV:\" \
                xmlns:C=\"urn:ietf:params:xml:ns:caldav\"><D:prop><D:getetag/><C:calendar-data/></D:prop>\
                <C:filter><C:comp-filter name=\"VCALENDAR\"/></C:filter></C:calendar-query>";
    let answer = app.send("REPORT", calendar, &[("Depth", "1")], body)?;
    expect_status(&answer, 207)?;
    Ok(answer)
}
