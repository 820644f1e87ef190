//! The messages of a stream by their heads, without a look inside.

use meridian_rpc::KvError;
use meridian_types::limits;
use tonic::Status;

/// A flag (compressed) and the message's length.
pub(crate) const HEAD_BYTES: usize = 5;

/// What the head of a message says that nobody accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unacceptable {
    /// Nobody here decompresses.
    Compressed,
    /// So many bytes.
    TooLarge(usize),
}

impl From<Unacceptable> for Status {
    fn from(what: Unacceptable) -> Self {
        match what {
            Unacceptable::Compressed => Self::unimplemented("compressed requests are not supported"),
            Unacceptable::TooLarge(got) => KvError::LimitExceeded {
                limit: "message size in bytes".to_owned(),
                allowed: limits::MAX_MESSAGE_BYTES as u64,
                got: got as u64,
            }
            .into(),
        }
    }
}

/// How long the message is that this head announces.
pub(crate) fn length(head: [u8; HEAD_BYTES]) -> Result<usize, Unacceptable> {
    let [compressed, length @ ..] = head;
    if compressed != 0 {
        return Err(Unacceptable::Compressed);
    }
    let length = length
        .iter()
        .fold(0usize, |length, byte| (length << 8) | usize::from(*byte));
    if length > limits::MAX_MESSAGE_BYTES {
        return Err(Unacceptable::TooLarge(length));
    }
    Ok(length)
}

/// Follows a stream of messages, whatever pieces it comes in.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: [u8; HEAD_BYTES],
    /// Bytes of the next head that have come.
    have: usize,
    /// Bytes of the current message that have not come yet.
    missing: usize,
}

impl Frames {
    /// Whether the next piece begins a message.
    pub(crate) fn is_between(&self) -> bool {
        self.have == 0 && self.missing == 0
    }

    /// Looks at the next piece.
    pub(crate) fn check(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            let of_message = self.missing.min(data.len());
            self.missing -= of_message;
            data = data.get(of_message..).unwrap_or_default();
            for (slot, byte) in self.head.iter_mut().skip(self.have).zip(data) {
                *slot = *byte;
            }
            let of_head = data.len().min(HEAD_BYTES - self.have);
            self.have += of_head;
            data = data.get(of_head..).unwrap_or_default();
            if self.have == HEAD_BYTES {
                self.missing = length(self.head)?;
                self.have = 0;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        // Content that would make a bad head.
        bytes.extend(vec![0xff; length]);
        bytes
    }

    #[test]
    fn heads_are_found_whatever_pieces_the_stream_comes_in() {
        let good: Vec<u8> = [0, 1, 4, 5, 6, 300, 0, 0, 17]
            .into_iter()
            .flat_map(message)
            .collect();
        let mut bad = good.clone();
        bad.extend([0, 1, 0, 0, 1]);
        for piece in 1..good.len() {
            let mut frames = Frames::default();
            for data in good.chunks(piece) {
                frames.check(data).unwrap();
            }
            let mut frames = Frames::default();
            let refused = bad.chunks(piece).find_map(|data| frames.check(data).err());
            assert!(refused.is_some(), "pieces of {piece}");
        }
    }

    #[test]
    fn the_limit_is_the_largest_message() {
        let head = |length: usize| {
            let [a, b, c, d] = u32::try_from(length).unwrap().to_be_bytes();
            [0, a, b, c, d]
        };
        let most = limits::MAX_MESSAGE_BYTES;
        assert_eq!(length(head(most)), Ok(most));
        assert_eq!(length(head(most + 1)), Err(Unacceptable::TooLarge(most + 1)));
        assert_eq!(length([1, 0, 0, 0, 1]), Err(Unacceptable::Compressed));
    }
}
