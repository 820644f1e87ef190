//! The handle that names an open transaction and its query processor, so that any router can route a call.

use bytes::{BufMut, Bytes, BytesMut};
use meridian_types::{NodeName, TxnId};

use crate::error::{KvError, KvResult};

/// The first byte of a handle; a handle of another format is refused.
const FORMAT: u8 = 1;
const TXN_BYTES: usize = 16;

/// Longest node name that fits into a handle, in bytes.
pub const MAX_NODE_BYTES: usize = u8::MAX as usize;

/// A transaction and the query processor that holds it. On the wire: format, length of the name, name, 16
/// bytes of transaction id. Opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnHandle {
    /// The query processor.
    pub node: NodeName,
    /// The transaction.
    pub txn: TxnId,
}

impl TxnHandle {
    /// As it travels. A node name longer than [`MAX_NODE_BYTES`] is cut; services refuse to start with one.
    pub fn encode(&self) -> Bytes {
        let name = self.node.0.as_bytes();
        let name = name.get(..MAX_NODE_BYTES).unwrap_or(name);
        let mut bytes = BytesMut::with_capacity(2 + name.len() + TXN_BYTES);
        bytes.put_u8(FORMAT);
        bytes.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
        bytes.put_slice(name);
        bytes.put_slice(self.txn.0.as_bytes());
        bytes.freeze()
    }

    /// From the wire; `Invalid` when it is not a handle of this format.
    pub fn decode(bytes: &[u8]) -> KvResult<Self> {
        Self::parse(bytes)
            .ok_or_else(|| KvError::invalid("not a transaction handle; use the one that Begin returned"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (name, txn) = rest.split_at_checked(usize::from(*length))?;
        if *format != FORMAT {
            return None;
        }
        Some(Self {
            node: NodeName(std::str::from_utf8(name).ok()?.to_owned()),
            txn: TxnId::from_slice(txn)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_handle_survives_and_nothing_else_is_taken_for_one() {
        let handle = TxnHandle {
            node: "query-1".into(),
            txn: TxnId(Uuid::from_u128(42)),
        };
        let bytes = handle.encode();
        assert_eq!(TxnHandle::decode(&bytes), Ok(handle));
        for end in 0..bytes.len() {
            assert!(TxnHandle::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(TxnHandle::decode(&longer).is_err());
        let mut other_format = bytes.to_vec();
        other_format[0] = 2;
        assert!(TxnHandle::decode(&other_format).is_err());
    }
}
