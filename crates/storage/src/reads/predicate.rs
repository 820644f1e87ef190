//! Predicates on values, evaluated where the data is.

use bytes::Bytes;
use meridian_rpc::KvError;
use meridian_rpc::v1::Predicate as Message;
use meridian_rpc::v1::predicate::Op;
use meridian_types::limits;

/// Most predicates of one scan.
const MAX_PREDICATES: usize = 64;

/// A test of a row's value. Values compare bytewise.
#[derive(Clone, Debug)]
pub(super) struct Predicate {
    op: Op,
    operand: Bytes,
}

impl Predicate {
    /// All predicates of a scan, checked.
    pub fn parse(messages: Vec<Message>) -> Result<Vec<Self>, KvError> {
        if messages.len() > MAX_PREDICATES {
            return Err(KvError::LimitExceeded {
                limit: "predicates of a scan".to_owned(),
                allowed: MAX_PREDICATES as u64,
                got: messages.len() as u64,
            });
        }
        messages.into_iter().map(Self::parse_one).collect()
    }

    fn parse_one(message: Message) -> Result<Self, KvError> {
        let Message { op, operand } = message;
        if operand.len() > limits::MAX_VALUE_BYTES {
            return Err(KvError::LimitExceeded {
                limit: "predicate operand length in bytes".to_owned(),
                allowed: limits::MAX_VALUE_BYTES as u64,
                got: operand.len() as u64,
            });
        }
        match Op::try_from(op) {
            Ok(Op::Unspecified) | Err(_) => {
                Err(KvError::invalid(format!("predicate operator {op} is not known")))
            }
            Ok(op) => Ok(Self { op, operand }),
        }
    }

    /// Whether it holds.
    pub fn holds(&self, value: &[u8]) -> bool {
        let operand = self.operand.as_ref();
        match self.op {
            Op::Unspecified => false,
            Op::Prefix => value.starts_with(operand),
            Op::Contains => contains(value, operand),
            Op::Equal => value == operand,
            Op::NotEqual => value != operand,
            Op::Less => value < operand,
            Op::LessOrEqual => value <= operand,
            Op::Greater => value > operand,
            Op::GreaterOrEqual => value >= operand,
        }
    }
}

fn contains(value: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(value, part).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(op: Op, operand: &'static str, value: &str) -> bool {
        let message = Message {
            op: op as i32,
            operand: Bytes::from_static(operand.as_bytes()),
        };
        Predicate::parse(vec![message])
            .unwrap()
            .iter()
            .all(|p| p.holds(value.as_bytes()))
    }

    #[test]
    fn every_operator_compares_bytewise() {
        let expected = [
            (Op::Prefix, [false, true, false]),
            (Op::Contains, [false, true, true]),
            (Op::Equal, [false, true, false]),
            (Op::NotEqual, [true, false, true]),
            (Op::Less, [true, false, false]),
            (Op::LessOrEqual, [true, true, false]),
            (Op::Greater, [false, false, true]),
            (Op::GreaterOrEqual, [false, true, true]),
        ];
        for (op, expected) in expected {
            assert_eq!(
                ["a", "b", "cb"].map(|value| holds(op, "b", value)),
                expected,
                "{op:?}"
            );
        }
        assert!(holds(Op::Prefix, "", "") && holds(Op::Contains, "", ""));
    }

    #[test]
    fn unknown_operators_and_too_many_of_them_are_refused() {
        let unknown = Message {
            op: 99,
            operand: Bytes::new(),
        };
        assert!(matches!(
            Predicate::parse(vec![unknown]),
            Err(KvError::Invalid { .. })
        ));
        let many = vec![
            Message {
                op: Op::Equal as i32,
                operand: Bytes::new()
            };
            MAX_PREDICATES + 1
        ];
        assert!(matches!(
            Predicate::parse(many),
            Err(KvError::LimitExceeded { .. })
        ));
    }
}
