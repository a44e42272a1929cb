//! Spells addresses, and without what a formatter costs: every request has its client's, several times.

use std::net::IpAddr;

/// The longest text of an address of version 4.
const V4_BYTES_MAX: usize = 15;

/// As [`IpAddr`] is displayed.
pub fn address_text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let mut text = String::with_capacity(V4_BYTES_MAX);
    let mut number = itoa::Buffer::new();
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        text.push_str(number.format(octet));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_spelled_as_everybody_does() {
        for text in ["0.0.0.0", "192.0.2.1", "255.255.255.255", "2001:db8::1", "::ffff:192.0.2.1"] {
            assert_eq!(address_text(text.parse().unwrap()), text);
        }
    }
}
