//! Who sent a request, and how, as far as proxies in front of us are believed. Pure.
//!
//! Whoever connects can write any header, so what `X-Forwarded-*`, `Forwarded` and `X-Request-Id` say
//! counts only from an address that the operator named. Lists are read from their end, the part that
//! the nearest proxy wrote, up to the first address that is not one of those.

use std::net::{IpAddr, SocketAddr};

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::headers::{
    FORWARDED, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REQUEST_ID,
};

/// The proxies whose word counts.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The client; with port 0 where only its address is known.
    pub client: SocketAddr,
    /// What the client speaks: `http` or `https`.
    pub scheme: &'static str,
    /// The port that the client connected to.
    pub port: u16,
    /// What a proxy calls the request.
    pub request_id: Option<String>,
}

/// Scheme and host, as `Forwarded` gives them.
type Said = (Option<String>, Option<String>);

const REQUEST_ID_BYTES_MAX: usize = 128;

/// The most proxies of a chain that are looked at.
const CHAIN_MAX: usize = 64;

impl TrustedProxies {
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address.to_canonical()))
    }

    /// Where a request with these headers comes from, which came from `peer` to our `port`. Where a
    /// proxy says that the client asked for another host, that is the request's from here on.
    pub fn origin(&self, peer: SocketAddr, port: u16, headers: &mut HeaderMap) -> Origin {
        let mut origin = Origin { client: peer, scheme: "http", port, request_id: None };
        if !self.contains(peer.ip()) {
            return origin;
        }
        let (chain, (scheme, host)) = match headers.contains_key(X_FORWARDED_FOR) {
            true => (addresses(headers), (None, None)),
            false => forwarded(headers),
        };
        if let Some(client) = self.client(chain) {
            origin.client = client;
        }
        let scheme = last(headers, &X_FORWARDED_PROTO).map(str::to_owned).or(scheme);
        if let Some(scheme) = scheme.as_deref().and_then(known_scheme) {
            origin.scheme = scheme;
            origin.port = if scheme == "https" { 443 } else { 80 };
        }
        let host = last(headers, &X_FORWARDED_HOST).map(str::to_owned).or(host);
        if let Some(host) = host.and_then(|host| as_host(&host)) {
            headers.insert(HOST, host);
        }
        origin.port = port_of(headers).unwrap_or(origin.port);
        if let Some(port) = last(headers, &X_FORWARDED_PORT).and_then(|port| port.parse().ok()) {
            origin.port = port;
        }
        origin.request_id =
            last(headers, &X_REQUEST_ID).filter(|id| is_request_id(id)).map(str::to_owned);
        origin
    }

    /// The last address of `chain`, read from its end, that is reached over proxies alone.
    fn client(&self, chain: Vec<Option<SocketAddr>>) -> Option<SocketAddr> {
        let mut client = None;
        for address in chain.into_iter().rev().take(CHAIN_MAX) {
            client = Some(address?).or(client);
            if !client.is_some_and(|client| self.contains(client.ip())) {
                break;
            }
        }
        client
    }
}

/// The addresses of `X-Forwarded-For`; `None` stands for what is no address.
fn addresses(headers: &HeaderMap) -> Vec<Option<SocketAddr>> {
    items(headers, &X_FORWARDED_FOR).map(|item| item.and_then(address)).collect()
}

/// The addresses of `Forwarded`, and what its last element says. Source: RFC 7239.
fn forwarded(headers: &HeaderMap) -> (Vec<Option<SocketAddr>>, Said) {
    let mut chain = Vec::new();
    let mut said = (None, None);
    for element in items(headers, &FORWARDED) {
        let mut client = None;
        said = (None, None);
        for pair in element.unwrap_or_default().split(';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => client = address(value),
                "proto" => said.0 = Some(value.to_owned()),
                "host" => said.1 = Some(value.to_owned()),
                _ => {}
            }
        }
        chain.push(client);
    }
    (chain, said)
}

/// The items of a list; `None` for one that is not ASCII.
fn items<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Option<&'a str>> + use<'a> {
    let values = headers.get_all(name).iter();
    let items = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    items.map(|item| std::str::from_utf8(item.trim_ascii()).ok().filter(|item| item.is_ascii()))
}

/// The last item of a list: what the nearest proxy wrote.
fn last<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    items(headers, name).last().flatten()
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Some(SocketAddr::new(address, 0)),
        Err(_) => text.parse().ok(),
    }
}

fn known_scheme(text: &str) -> Option<&'static str> {
    ["http", "https"].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme))
}

/// `text` as the value of `Host`. Whether it is a host is judged like any other `Host`.
fn as_host(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok().filter(|_| !text.is_empty())
}

/// The port that `Host` names.
fn port_of(headers: &HeaderMap) -> Option<u16> {
    headers.get(HOST)?.to_str().ok()?.parse::<Authority>().ok()?.port_u16()
}

fn is_request_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> TrustedProxies {
        let networks = ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().unwrap());
        TrustedProxies::new(networks.into())
    }

    /// Who is found behind `peer`, as `client scheme port host`.
    fn origin(peer: &str, fields: &[(&'static str, &'static str)]) -> String {
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("shop"))]);
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 7);
        let Origin { client, scheme, port, .. } = proxies().origin(peer, 8080, &mut headers);
        format!("{client} {scheme} {port} {}", headers[HOST].to_str().unwrap())
    }

    #[test]
    fn a_stranger_is_not_believed() {
        let said = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "other"),
            ("forwarded", "for=192.0.2.1;proto=https"),
        ];
        assert_eq!(origin("198.51.100.1", &said), "198.51.100.1:7 http 8080 shop");
        let nobody = TrustedProxies::default();
        assert!(!nobody.contains([127, 0, 0, 1].into()));
    }

    #[test]
    fn a_chain_is_followed_as_far_as_it_is_trusted() {
        for (chain, client) in [
            ("192.0.2.1", "192.0.2.1:0"),
            ("6.6.6.6, 192.0.2.1, 10.1.1.1", "192.0.2.1:0"),
            ("10.9.9.9, 10.1.1.1", "10.9.9.9:0"),
            ("6.6.6.6, unknown, 10.1.1.1", "10.0.0.1:7"),
            ("192.0.2.1:4711", "192.0.2.1:4711"),
            ("[2001:db8::1]:4711", "[2001:db8::1]:4711"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("", "10.0.0.1:7"),
        ] {
            let found = origin("10.0.0.1", &[("x-forwarded-for", chain)]);
            assert_eq!(found, format!("{client} http 8080 shop"), "{chain}");
        }
        let two = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1")];
        assert!(origin("::ffff:10.0.0.1", &two).starts_with("192.0.2.1:0 "));
    }

    #[test]
    fn the_nearest_proxy_says_what_the_client_spoke() {
        let plain = [("x-forwarded-proto", "http, https")];
        assert_eq!(origin("10.0.0.1", &plain), "10.0.0.1:7 https 443 shop");
        let named = [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "example.com:8443"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        assert_eq!(origin("10.0.0.1", &named), "192.0.2.1:0 https 8443 example.com:8443");
        let port = [("x-forwarded-proto", "gopher"), ("x-forwarded-port", "81")];
        assert_eq!(origin("10.0.0.1", &port), "10.0.0.1:7 http 81 shop");
        let standard =
            [("forwarded", "for=6.6.6.6, For=\"[2001:db8::1]:9\";Proto=https; host=example.com")];
        assert_eq!(origin("10.0.0.1", &standard), "[2001:db8::1]:9 https 443 example.com");
    }

    #[test]
    fn a_request_keeps_its_name_if_it_is_one() {
        for (id, kept) in [("3f-2a_b.c", true), ("a b", false), ("<script>", false), ("", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_static(id));
            let origin = proxies().origin("10.0.0.1:1".parse().unwrap(), 80, &mut headers);
            assert_eq!(origin.request_id.is_some(), kept, "{id}");
        }
    }
}
