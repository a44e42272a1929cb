//! What clients of WebDAV and CalDAV do.

use ace_testkit::Answer;
use anyhow::{Context, Result, ensure};

use crate::kit::{RealApp, expect_status, shows};

/// Signs in as the share's only user.
const TESTER: (&str, &str) = ("Authorization", "Basic dGVzdGVyOnNlY3JldA==");

/// Uploads a file, makes a folder, and copies the file into it.
pub fn fill_share(app: &RealApp) -> Result<()> {
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
pub fn check_share(app: &RealApp) -> Result<()> {
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

const XML: (&str, &str) = ("Content-Type", "text/xml; charset=utf-8");

const EVENT: &str = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:1\r\n\
                     SUMMARY:Meet\r\nDTSTAMP:20260101T090000Z\r\nDTSTART:20260101T100000Z\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";

/// Makes a calendar with one event.
pub fn fill_calendar(app: &RealApp, calendar: &str) -> Result<()> {
    let body = "<?xml version=\"1.0\"?><C:mkcalendar xmlns:D=\"DAV:\" \
                xmlns:C=\"urn:ietf:params:xml:ns:caldav\"><D:set><D:prop><D:displayname>Work\
                </D:displayname></D:prop></D:set></C:mkcalendar>";
    expect_status(&app.send("MKCALENDAR", calendar, &[XML], body)?, 201)?;
    let event = format!("{calendar}1.ics");
    expect_status(&app.send("PUT", &event, &[("Content-Type", "text/calendar")], EVENT)?, 201)
}

/// Asks for all events of a calendar, as a client does to synchronise.
pub fn query_calendar(app: &RealApp, calendar: &str) -> Result<Answer> {
    let body = "<?xml version=\"1.0\"?><C:calendar-query xmlns:D=\"DAV:\" \
                xmlns:C=\"urn:ietf:params:xml:ns:caldav\"><D:prop><D:getetag/><C:calendar-data/></D:prop>\
                <C:filter><C:comp-filter name=\"VCALENDAR\"/></C:filter></C:calendar-query>";
    let answer = app.send("REPORT", calendar, &[XML, ("Depth", "1")], body)?;
    expect_status(&answer, 207)?;
    Ok(answer)
}
