//! The tests of a scan, evaluated on the transaction's own writes as storage does on what is stored.

use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::Predicate;
use meridian_rpc::v1::predicate::Op;
use meridian_types::limits;

use crate::buffer::check_limit;

/// Most predicates of one scan.
const MAX_PREDICATES: usize = 64;
/// Most bytes that their operands may have together: they travel with every page's request.
const MAX_OPERAND_BYTES: usize = 4 << 20;

/// Refuses predicates that nobody can evaluate.
pub(crate) fn check(predicates: &[Predicate]) -> KvResult<()> {
    check_limit("predicates of a scan", predicates.len(), MAX_PREDICATES)?;
    let total = predicates.iter().map(|predicate| predicate.operand.len()).sum();
    check_limit("bytes of a scan's predicates", total, MAX_OPERAND_BYTES)?;
    for predicate in predicates {
        let length = predicate.operand.len();
        check_limit(
            "length of a predicate's operand in bytes",
            length,
            limits::MAX_VALUE_BYTES,
        )?;
        if matches!(Op::try_from(predicate.op), Err(_) | Ok(Op::Unspecified)) {
            return Err(KvError::invalid(format!(
                "predicate operation {} is not known",
                predicate.op
            )));
        }
    }
    Ok(())
}

/// Whether every predicate holds for the value.
pub(crate) fn all_hold(predicates: &[Predicate], value: &[u8]) -> bool {
    predicates.iter().all(|predicate| holds(predicate, value))
}

fn holds(predicate: &Predicate, value: &[u8]) -> bool {
    let operand = predicate.operand.as_ref();
    match predicate.op() {
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

fn contains(value: &[u8], operand: &[u8]) -> bool {
    // An empty operand is contained in everything; `windows` does not take a width of 0.
    operand.is_empty() || value.windows(operand.len()).any(|window| window == operand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_compare_bytes() {
        let test = |op: Op, operand: &'static [u8], value: &[u8]| {
            let operand = operand.into();
            all_hold(
                &[Predicate {
                    op: op.into(),
                    operand,
                }],
                value,
            )
        };
        assert!(test(Op::Prefix, b"ab", b"abc") && !test(Op::Prefix, b"b", b"abc"));
        assert!(test(Op::Contains, b"bc", b"abcd") && test(Op::Contains, b"", b""));
        assert!(!test(Op::Contains, b"abc", b"ab"));
        assert!(test(Op::Less, b"b", b"aa") && !test(Op::Less, b"b", b"b"));
        assert!(test(Op::GreaterOrEqual, b"b", b"b") && test(Op::NotEqual, b"a", b""));
        assert!(
            check(&[Predicate {
                op: 0,
                operand: b"".as_ref().into()
            }])
            .is_err()
        );
        assert!(
            check(&[Predicate {
                op: 99,
                operand: b"".as_ref().into()
            }])
            .is_err()
        );
    }
}
