//! Finds the transaction handle in the first bytes of a request, without decoding the rest.

use std::ops::Range;

use crate::frames::{self, HEAD_BYTES, Unacceptable};

/// Field 1, length-delimited: `transaction` in every request that has one.
const HANDLE_TAG: u64 = 0x0a;

/// What the first bytes of a request say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peeked {
    /// The handle lies there.
    Handle(Range<usize>),
    /// More bytes are needed.
    More,
    /// The message has no handle.
    None,
    /// Its head says enough.
    Unacceptable(Unacceptable),
    /// Not a protobuf message.
    Malformed,
}

/// Looks at the bytes received so far.
pub(crate) fn handle(bytes: &[u8]) -> Peeked {
    let Some((head, _)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Peeked::More;
    };
    let length = match frames::length(*head) {
        Ok(length) => length,
        Err(what) => return Peeked::Unacceptable(what),
    };
    let mut scanner = Scanner {
        bytes,
        at: HEAD_BYTES,
        end: HEAD_BYTES + length,
    };
    scanner.find().unwrap_or_else(|ended| ended)
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the message ends; perhaps behind `bytes`.
    end: usize,
}

impl Scanner<'_> {
    /// Field by field; protobuf's last value of a field counts, but nobody sends one twice.
    fn find(&mut self) -> Result<Peeked, Peeked> {
        while self.at < self.end {
            let tag = self.varint()?;
            match tag & 7 {
                0 => {
                    self.varint()?;
                }
                1 => self.skip(8)?,
                2 => {
                    let length = usize::try_from(self.varint()?).map_err(|_| Peeked::Malformed)?;
                    let start = self.at;
                    self.skip(length)?;
                    if tag == HANDLE_TAG {
                        if self.at > self.bytes.len() {
                            return Err(Peeked::More);
                        }
                        return Ok(Peeked::Handle(start..self.at));
                    }
                }
                5 => self.skip(4)?,
                _ => return Err(Peeked::Malformed),
            }
        }
        Ok(Peeked::None)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Peeked> {
        self.at = self
            .at
            .checked_add(bytes)
            .filter(|at| *at <= self.end)
            .ok_or(Peeked::Malformed)?;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Peeked> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at >= self.end {
                return Err(Peeked::Malformed);
            }
            let byte = *self.bytes.get(self.at).ok_or(Peeked::More)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Peeked::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_rpc::v1::{GetRequest, PutRequest, ScanRequest};
    use prost::Message;

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        frame
    }

    #[test]
    fn the_handle_is_found_as_soon_as_it_is_there() {
        let put = PutRequest {
            transaction: "the handle".into(),
            key: vec![b'k'; 300].into(),
            value: vec![b'v'; 100_000].into(),
        };
        let frame = framed(&put.encode_to_vec());
        for end in 0..frame.len() {
            let peeked = handle(&frame[..end]);
            if end < 7 + put.transaction.len() {
                assert_eq!(peeked, Peeked::More, "{end} bytes");
            } else {
                assert_eq!(peeked, Peeked::Handle(7..17), "{end} bytes");
            }
        }
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let get = GetRequest {
            key: "k".into(),
            for_update: true,
            ..GetRequest::default()
        };
        let mut message = get.encode_to_vec();
        message.extend(
            GetRequest {
                transaction: "late".into(),
                ..GetRequest::default()
            }
            .encode_to_vec(),
        );
        let frame = framed(&message);
        let Peeked::Handle(range) = handle(&frame) else {
            panic!("not found");
        };
        assert_eq!(&frame[range], b"late");
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        assert_eq!(
            handle(&framed(
                &ScanRequest {
                    limit: 7,
                    ..ScanRequest::default()
                }
                .encode_to_vec()
            )),
            Peeked::None
        );
        assert_eq!(handle(&framed(b"")), Peeked::None);
        let unacceptable = Peeked::Unacceptable(Unacceptable::Compressed);
        assert_eq!(handle(&[1, 0, 0, 0, 1]), unacceptable);
        let unacceptable = Peeked::Unacceptable(Unacceptable::TooLarge(0xff00_0000));
        assert_eq!(handle(&[0, 0xff, 0, 0, 0]), unacceptable);
        // A length that points behind the message, a group, a varint without end.
        for bad in [
            &[0x0a, 0xff, 0x01][..],
            &[0x0b],
            &[
                0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
        ] {
            assert_eq!(handle(&framed(bad)), Peeked::Malformed, "{bad:?}");
        }
    }
}
