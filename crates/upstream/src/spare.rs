//! Room for what apps send, used by one connection after the other.
//!
//! An answer's body is passed on as parts of the room that it was received in. A short one takes little of it,
//! and the next answer comes into the rest; only what is used up is allocated anew. A connection takes room when
//! its answer comes, since many wait for theirs, and keeps it to itself until that has come: so a part
//! holds on to little more memory than its own.

use std::cell::RefCell;

use bytes::BytesMut;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// How much is received at once.
const ROOM_BYTES: usize = 16 * 1024;

/// Less is not worth a call of the kernel.
const ROOM_BYTES_MIN: usize = 2 * 1024;

/// The most that one thread keeps.
const KEPT_MAX: usize = 16;

/// Makes `room`, which is empty at first, worth reading into: bytes to be overwritten.
pub fn renew(room: &mut BytesMut) {
    if room.len() < ROOM_BYTES_MIN {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        *room = spare.unwrap_or_else(|| BytesMut::zeroed(ROOM_BYTES));
    }
}

/// Keeps the rest of `room` for whoever needs some next.
pub fn keep(room: BytesMut) {
    SPARE.with_borrow_mut(|spare| {
        if room.len() >= ROOM_BYTES_MIN && spare.len() < KEPT_MAX {
            spare.push(room);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_room_is_used_next() {
        let mut room = BytesMut::new();
        renew(&mut room);
        let part = room.split_to(100);
        keep(room);
        let mut next = BytesMut::new();
        renew(&mut next);
        assert_eq!(next.len(), ROOM_BYTES - part.len());
        assert_eq!(next.as_ptr(), part.as_ptr_range().end);
    }

    #[test]
    fn too_little_is_not_kept() {
        keep(BytesMut::zeroed(ROOM_BYTES_MIN - 1));
        let mut room = BytesMut::new();
        renew(&mut room);
        assert_eq!(room.len(), ROOM_BYTES);
    }
}
