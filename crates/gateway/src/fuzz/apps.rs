//! What goes to an app, and what comes from it.

use std::collections::HashSet;

use ace_types::Protocol;
use ace_upstream::chunked::{ChunkDecoder, Decoded};
use ace_upstream::response::{BodyLength, head_end, parse_head};
use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Uri};

use crate::app_head::AppHead;
use crate::failure::Failure;
use crate::framing::{Framing, Refused};
use crate::fuzz::clients::pass;
use crate::fuzz::piece_size;
use crate::headers;
use crate::origin::TrustedProxies;
use crate::service::app_head;
use crate::target;

/// An app's answer, after a byte that says how it was asked, is refused, or leaves us with one length at
/// most and nothing of its connection; where its head and body end does not depend on how they come.
pub fn answer(bytes: &[u8]) {
    let Some((asked, bytes)) = bytes.split_first() else { return };
    let protocol = if asked & 1 == 0 { Protocol::Uwsgi } else { Protocol::Http };
    let method = if asked & 2 == 0 { Method::GET } else { Method::HEAD };
    let end = head_end(bytes, 0);
    assert_eq!(end, head_end_in_pieces(bytes), "it depends on how bytes come");
    let Ok(Some(end)) = end else { return };
    let Ok(head) = parse_head(&bytes[..end], protocol) else { return };
    let length = head.body_length(&method);
    assert!(protocol == Protocol::Http || length != BodyLength::Chunked);
    let mut fields = head.headers.clone();
    headers::to_client(&mut fields, head.status, head.content_length);
    assert!(fields.get_all(CONTENT_LENGTH).iter().count() <= 1);
    assert!(!fields.contains_key(TRANSFER_ENCODING) && !fields.contains_key(CONNECTION));
    if length == BodyLength::Chunked {
        let whole = decode(&bytes[end..], bytes.len());
        assert_eq!(whole, decode(&bytes[end..], piece_size(bytes)), "it depends on how bytes come");
    }
}

fn head_end_in_pieces(bytes: &[u8]) -> Result<Option<usize>, ace_upstream::HeadError> {
    let (step, mut scanned) = (piece_size(bytes), 0);
    while scanned < bytes.len() {
        let known = (scanned + step).min(bytes.len());
        match head_end(&bytes[..known], scanned)? {
            Some(end) => return Ok(Some(end)),
            None => scanned = known,
        }
    }
    Ok(None)
}

/// The data in chunks, and whether they ended; `None` where they are none.
fn decode(bytes: &[u8], step: usize) -> Option<(Vec<u8>, bool)> {
    let (mut decoder, mut buffer, mut data) =
        (ChunkDecoder::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        while let Decoded::Data(part) = decoder.decode(&mut buffer).ok()? {
            data.extend_from_slice(&part);
        }
    }
    Some((data, decoder.is_at_end()))
}

/// A client's request, where it is one for us, becomes one request for an app, in either protocol.
pub fn request(bytes: &[u8]) {
    let Some(passed) = pass([bytes]) else { return };
    if let Some(parts) = first_head(&passed.bytes) {
        check_request(parts);
    }
}

/// As hyper makes it.
fn first_head(bytes: &[u8]) -> Option<Parts> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut head = httparse::Request::new(&mut fields);
    head.parse(bytes).ok().filter(httparse::Status::is_complete)?;
    let mut request = http::Request::builder().method(head.method?).uri(head.path?);
    for field in head.headers.iter() {
        request = request.header(field.name, field.value);
    }
    Some(request.body(()).expect("what passes is a request").into_parts().0)
}

/// Checks what apps get of a request.
pub fn check_request(mut parts: Parts) {
    let Ok(host) = target::host(&parts) else { return };
    if target::normalise(parts.uri.path()).is_err() {
        return;
    }
    let client = ([192, 0, 2, 1], 4711).into();
    let origin = TrustedProxies::default().origin(client, 80, &mut parts.headers);
    let head = app_head(&host, &origin, "an-id", parts, None);
    check_uwsgi(&head);
    check_http(&head);
}

fn check_uwsgi(head: &AppHead) {
    let Ok(packet) = head.encode(Protocol::Uwsgi, false) else { return };
    let length = usize::from(u16::from_le_bytes([packet[1], packet[2]]));
    assert_eq!((packet[0], packet[3], length), (0, 0, packet.len() - 4));
    let (mut rest, mut names) = (&packet[4..], HashSet::new());
    while !rest.is_empty() {
        let (name, after) = counted(rest);
        let (value, after) = counted(after);
        rest = after;
        assert!(name.iter().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_lowercase()));
        assert!(name != b"HTTP_PROXY" && name != b"HTTP_CONTENT_LENGTH");
        let is_decoded = name == b"PATH_INFO";
        assert!(is_decoded || !value.iter().any(|byte| b"\r\n\0".contains(byte)));
        assert!(names.insert(name), "{} comes twice", String::from_utf8_lossy(name));
    }
    assert!(names.contains(&b"HTTP_HOST"[..]) && names.contains(&b"PATH_INFO"[..]));
}

/// The string at the beginning of `bytes`, after its length, and what follows.
fn counted(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_at(2);
    rest.split_at(usize::from(u16::from_le_bytes([length[0], length[1]])))
}

/// What we send is what we would let pass ourselves, and names the same host and path.
fn check_http(head: &AppHead) {
    let Ok(mut bytes) = head.encode(Protocol::Http, true) else { return };
    let mut framing = Framing::new();
    match framing.feed(&mut bytes) {
        Ok(passed) => assert_eq!((passed, framing.heads()), (bytes.len(), 1)),
        // Ours come on top of as many as may be.
        Err(Refused::Head { failure: Failure::HeadTooLarge, .. }) => return,
        Err(refused) => panic!("{refused:?}: {:?}", String::from_utf8_lossy(&bytes)),
    }
    let sent = first_head(&bytes).expect("it has passed");
    assert_eq!(sent.headers.get_all(HOST).iter().count(), 1);
    assert_eq!(sent.headers.get(HOST), head.headers.get(HOST));
    assert_eq!(sent.method, head.method);
    assert!(is_path(&sent.uri), "{}", sent.uri);
}

fn is_path(target: &Uri) -> bool {
    target.authority().is_none() && (target.path().starts_with('/') || target.path() == "*")
}
