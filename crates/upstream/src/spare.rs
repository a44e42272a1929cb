//! Buffers for answers, used one after the other.
//!
//! An answer's body is passed on as parts of the buffer that it was read into. When the client has taken
//! all of them, the whole buffer can be read into again, which is cheaper than a new one: the
//! allocator tidies up its small blocks for each that is as large.

use std::cell::RefCell;

use bytes::BytesMut;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// The most that one thread keeps.
const KEPT_MAX: usize = 16;

/// An empty buffer.
pub fn take() -> BytesMut {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps `buffer` for whoever needs the next one. What is in it is forgotten; parts that were split off
/// stay as they are, and as long as there are some, it grows elsewhere.
pub fn keep(mut buffer: BytesMut) {
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT_MAX {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_buffer_outlive_it_and_then_it_is_used_again() {
        let mut buffer = take();
        buffer.reserve(1000);
        buffer.extend_from_slice(b"first");
        let (part, place) = (buffer.split().freeze(), buffer.as_ptr());
        keep(buffer);
        let mut buffer = take();
        assert!(buffer.is_empty());
        buffer.reserve(1000);
        buffer.extend_from_slice(b"second");
        assert_eq!((&part[..], &buffer[..]), (&b"first"[..], &b"second"[..]));
        assert_ne!(buffer.as_ptr(), place);
        let whole = buffer.as_ptr();
        drop(part);
        drop(buffer.split_to(3));
        keep(buffer);
        let mut buffer = take();
        buffer.reserve(1000);
        assert_eq!(buffer.as_ptr(), whole);
    }
}
