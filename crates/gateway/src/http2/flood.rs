//! Tells a client that asks for something from one that only makes work. Pure.
//!
//! Each frame of HTTP/2 costs us about the same, whatever it carries, and most kinds may be sent
//! without end: PING and SETTINGS, which must be answered, WINDOW_UPDATE, PRIORITY, DATA of no
//! bytes. So what a connection receives has to be in some proportion to what it carries, or to what it is
//! sent.

/// What has come over a connection so far. [`Flood::receive`] sees everything after the preface.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flood {
    header: [u8; HEADER_BYTES],
    /// How much of the next frame's header has come.
    header_filled: usize,
    /// How much of the last frame's payload is still to come.
    payload: usize,
    received_bytes: u64,
    useful_bytes: u64,
    sent_bytes: u64,
}

const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// How much of what comes may be useless.
const ALLOWANCE_BYTES: u64 = 1024 * 1024;

/// How much may come for each useful byte beyond that.
const RECEIVED_PER_USEFUL: u64 = 8;

/// How much is sent for what counts as a useful byte: answers to PING and SETTINGS must not, and
/// the WINDOW_UPDATEs of a download must.
const SENT_PER_USEFUL: u64 = 16;

impl Flood {
    /// Takes the next bytes from the client. Returns whether the connection may go on.
    pub fn receive(&mut self, mut bytes: &[u8]) -> bool {
        self.received_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER_BYTES - self.header_filled).min(bytes.len());
            self.header[self.header_filled..][..taken].copy_from_slice(&bytes[..taken]);
            self.header_filled += taken;
            bytes = &bytes[taken..];
            if self.header_filled == HEADER_BYTES {
                self.begin_frame();
            }
        }
        let useful = self.useful_bytes + self.sent_bytes / SENT_PER_USEFUL;
        self.received_bytes <= useful * RECEIVED_PER_USEFUL + ALLOWANCE_BYTES
    }

    /// Counts bytes that the client has taken.
    pub fn sent(&mut self, count: usize) {
        self.sent_bytes += count as u64;
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, ..] = self.header;
        self.header_filled = 0;
        self.payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if matches!(kind, DATA | HEADERS) {
            self.useful_bytes += self.payload as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let [.., high, middle, low] = (payload as u32).to_be_bytes();
        let mut frame = vec![high, middle, low, kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER_BYTES + payload, 0xff);
        frame
    }

    /// How many of two hundred thousand frames pass, `sent` bytes being sent after each.
    fn passed(kind: u8, payload: usize, sent: usize) -> usize {
        let mut flood = Flood::default();
        let frame = frame(kind, payload);
        let passes = |_: &usize| {
            flood.sent(sent);
            flood.receive(&frame)
        };
        (0..200_000).take_while(passes).count()
    }

    #[test]
    fn who_only_makes_work_has_to_stop() {
        assert!(passed(PING, 8, 17) < 200_000);
        assert!(passed(DATA, 0, 0) < 200_000);
        assert!(passed(WINDOW_UPDATE, 4, 0) < 200_000);
    }

    #[test]
    fn who_asks_or_sends_goes_on() {
        assert_eq!(passed(HEADERS, 20, 100), 200_000);
        assert_eq!(passed(DATA, 7, 0), 200_000);
        assert_eq!(passed(WINDOW_UPDATE, 4, 4096), 200_000);
    }

    proptest! {
        #[test]
        fn frames_are_found_however_they_come(
            frames in prop::collection::vec((0u8..10, 0usize..40), 1..20),
            cut in 1usize..50,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, size)| frame(*kind, *size)).collect();
            let mut flood = Flood::default();
            for part in bytes.chunks(cut) {
                prop_assert!(flood.receive(part));
            }
            let useful = frames.iter().filter(|(kind, _)| *kind < 2).map(|(_, size)| *size as u64);
            prop_assert_eq!(flood.useful_bytes, useful.sum::<u64>());
            prop_assert_eq!((flood.header_filled, flood.payload), (0, 0));
        }
    }
}
