//! One request as the access log has it: a line of JSON.
//!
//! Spelled by hand, since a library would have taken a quarter of what a small file costs.

use std::borrow::Cow;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use ace_types::{AppName, InstanceId, ReleaseNumber};
use http::{HeaderValue, Method, StatusCode, Version};
use jiff::Timestamp;

/// One request.
#[derive(Debug, Clone)]
pub struct AccessLine<'a> {
    /// When it had ended.
    pub at: Timestamp,
    pub request: &'a str,
    pub client: IpAddr,
    /// `None`: the head was refused before it could be told.
    pub asked: Option<Asked<'a>>,
    pub host: Option<&'a HeaderValue>,
    pub user_agent: Option<&'a HeaderValue>,
    /// `None`: the client left before there was an answer.
    pub status: Option<StatusCode>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub duration: Duration,
    pub first_byte: Option<Duration>,
    pub app: Option<(&'a AppName, ReleaseNumber)>,
    pub instance: Option<&'a InstanceId>,
}

/// What a request line says.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub version: Version,
}

/// What a thread spells its lines with.
pub struct Pen {
    line: Line,
    time: Time,
}

/// How much of a path is logged, in bytes.
const PATH_MAX: usize = 2048;
/// How much of a host or user agent is logged, in bytes.
const HEADER_MAX: usize = 256;

/// What stands before a value: the comma after the one before, and the name.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

impl Pen {
    pub const fn new() -> Self {
        Self { line: Line(Vec::new()), time: Time { second: i64::MIN, to_second: String::new() } }
    }

    /// `request` as a line, with its end. This form is documented.
    pub fn spell(&mut self, request: &AccessLine<'_>) -> &[u8] {
        let line = &mut self.line;
        let asked = request.asked.as_ref();
        line.0.clear();
        line.raw("{\"time\":\"");
        line.raw(self.time.spell(request.at));
        line.fraction(request.at.subsec_microsecond().unsigned_abs().into(), 6);
        line.raw("Z\"");
        line.text(name!("request"), Some(request.request));
        line.address(name!("client"), request.client);
        line.text(name!("method"), asked.map(|asked| asked.method.as_str()));
        line.text(name!("host"), request.host.map(logged_part).as_deref());
        line.text(name!("path"), asked.map(|asked| logged_path(asked.path)));
        line.text(name!("protocol"), asked.map(|asked| protocol(asked.version)));
        line.text(name!("user_agent"), request.user_agent.map(logged_part).as_deref());
        line.number(name!("status"), request.status.map(|status| status.as_u16().into()));
        line.number(name!("received_bytes"), Some(request.received_bytes));
        line.number(name!("sent_bytes"), Some(request.sent_bytes));
        line.millis(name!("duration_ms"), Some(request.duration));
        line.millis(name!("first_byte_ms"), request.first_byte);
        line.text(name!("app"), request.app.map(|(app, _)| app.as_str()));
        line.number(name!("release"), request.app.map(|(_, release)| release.0.into()));
        line.text(name!("instance"), request.instance.map(InstanceId::as_str));
        line.raw("}\n");
        &line.0
    }
}

/// A line that is being spelled. A value that is not there is `null`.
struct Line(Vec<u8>);

impl Line {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        self.raw(name);
        let Some(text) = text else { return self.raw("null") };
        self.0.push(b'"');
        // Looked at as a whole: that takes far less than to stop at the first that is not plain.
        match text.bytes().fold(true, |are_plain, byte| are_plain & is_plain(byte)) {
            true => self.raw(text),
            false => text.chars().for_each(|c| self.escaped(c)),
        }
        self.0.push(b'"');
    }

    fn escaped(&mut self, c: char) {
        match u8::try_from(c) {
            Ok(byte) if is_plain(byte) => self.0.push(byte),
            Ok(byte @ (b'"' | b'\\')) => self.0.extend_from_slice(&[b'\\', byte]),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    _ = write!(self.0, "\\u{unit:04x}"); // Writing to memory does not fail.
                }
            }
        }
    }

    fn address(&mut self, name: &str, address: IpAddr) {
        self.raw(name);
        self.raw("\"");
        match address {
            IpAddr::V4(address) => self.octets(address.octets()),
            IpAddr::V6(address) => _ = write!(self.0, "{address}"),
        }
        self.raw("\"");
    }

    fn octets(&mut self, octets: [u8; 4]) {
        for (index, octet) in octets.into_iter().enumerate() {
            if index > 0 {
                self.0.push(b'.');
            }
            self.raw(itoa::Buffer::new().format(octet));
        }
    }

    fn number(&mut self, name: &str, number: Option<u64>) {
        self.raw(name);
        match number {
            Some(number) => self.raw(itoa::Buffer::new().format(number)),
            None => self.raw("null"),
        }
    }

    /// To a thousandth of a millisecond.
    fn millis(&mut self, name: &str, duration: Option<Duration>) {
        let micros = duration.map(|duration| duration.as_micros() as u64);
        self.number(name, micros.map(|micros| micros / 1000));
        if let Some(micros) = micros {
            self.fraction(micros % 1000, 3);
        }
    }

    /// The point and `digits` digits after it.
    fn fraction(&mut self, number: u64, digits: usize) {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(number);
        self.0.push(b'.');
        self.0.extend(std::iter::repeat_n(b'0', digits.saturating_sub(text.len())));
        self.raw(text);
    }
}

/// The second that was spelled last: most lines come in the same one as the line before.
struct Time {
    second: i64,
    /// `2026-11-23T05:49:27`
    to_second: String,
}

impl Time {
    fn spell(&mut self, at: Timestamp) -> &str {
        if self.second != at.as_second() {
            self.second = at.as_second();
            self.to_second = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        }
        &self.to_second
    }
}

/// Whether a byte of a string stands for itself. Everything but ASCII is escaped: then nothing in a line can
/// move a terminal's cursor or turn text around.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
}

/// As much of `path` as is logged.
fn logged_path(path: &str) -> &str {
    &path[..path.floor_char_boundary(PATH_MAX)]
}

/// As much of a header's value as is logged.
fn logged_part(value: &HeaderValue) -> Cow<'_, str> {
    let bytes = value.as_bytes();
    String::from_utf8_lossy(&bytes[..bytes.len().min(HEADER_MAX)])
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// A line for a request for `path`, as tests leave and read it.
#[cfg(test)]
pub fn with_line<T>(path: &str, user_agent: &[u8], then: impl FnOnce(&AccessLine<'_>) -> T) -> T {
    let user_agent = HeaderValue::from_bytes(user_agent).ok();
    then(&AccessLine {
        at: "2026-11-23T05:49:27.000042Z".parse().unwrap(),
        request: "0f",
        client: IpAddr::from([192, 0, 2, 1]),
        asked: Some(Asked { method: &Method::GET, path, version: Version::HTTP_11 }),
        host: Some(&HeaderValue::from_static("shop.localhost")),
        user_agent: user_agent.as_ref(),
        status: Some(StatusCode::OK),
        received_bytes: 0,
        sent_bytes: 12,
        duration: Duration::from_micros(1234),
        first_byte: None,
        app: Some((&"shop".parse().unwrap(), ReleaseNumber(3))),
        instance: None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn spelled(path: &str, user_agent: &[u8]) -> String {
        let mut pen = Pen::new();
        with_line(path, user_agent, |line| String::from_utf8(pen.spell(line).to_vec()).unwrap())
    }

    #[test]
    fn a_request_is_one_line_of_json() {
        assert_eq!(
            spelled("/x", b"curl/8"),
            "{\"time\":\"2026-11-23T05:49:27.000042Z\",\"request\":\"0f\",\"client\":\"192.0.2.1\",\
             \"method\":\"GET\",\"host\":\"shop.localhost\",\"path\":\"/x\",\"protocol\":\"HTTP/1.1\",\
             \"user_agent\":\"curl/8\",\"status\":200,\"received_bytes\":0,\"sent_bytes\":12,\
             \"duration_ms\":1.234,\"first_byte_ms\":null,\"app\":\"shop\",\"release\":3,\
             \"instance\":null}\n"
        );
    }

    #[test]
    fn each_second_is_spelled_anew() {
        let mut pen = Pen::new();
        for time in ["2026-12-31T23:59:59.999999Z", "2027-01-01T00:00:00.000000Z"] {
            let line = with_line("/", b"", |line| {
                pen.spell(&AccessLine { at: time.parse().unwrap(), ..line.clone() }).to_vec()
            });
            let document: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(document["time"], time);
        }
    }

    proptest! {
        #[test]
        fn no_client_forges_a_line(path in "\\PC{0,40}", agent: Vec<u8>) {
            let text = spelled(&path, &agent);
            let (one, rest) = text.split_once('\n').unwrap();
            prop_assert_eq!(rest, "");
            prop_assert!(one.chars().all(|c| (' '..='~').contains(&c)), "{}", one);
            let document: Value = serde_json::from_str(one).unwrap();
            prop_assert_eq!(document["path"].as_str(), Some(path.as_str()));
        }
    }
}
