//! Hashes what passes through.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::FileSum;

/// A reader that knows the sum of what was read.
pub struct Hashed<R> {
    inner: R,
    hash: Sha256,
    size: u64,
}

impl<R: Read> Hashed<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    /// The sum of all that was read.
    pub fn sum(self) -> FileSum {
        let hex = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        FileSum { size: self.size, sha256: hex }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.hash.update(&into[..count]);
        self.size += count as u64;
        Ok(count)
    }
}
