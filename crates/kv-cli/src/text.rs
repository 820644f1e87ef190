//! Bytes as text and back: what the shell shows can be typed into it again.

use std::fmt::Write;

use meridian_client::{CommitToken, Timestamp, TxnId};
use meridian_types::StreamId;

/// Printable text stays as it is; control characters, backslashes and bytes that are not UTF-8 are escaped
/// the way [`words`](crate::words) reads them. Always one line.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    let mut utf8 = [0; 4];
                    c.encode_utf8(&mut utf8)
                        .bytes()
                        .for_each(|byte| hex(&mut text, byte));
                }
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| hex(&mut text, *byte));
    }
    text
}

fn hex(text: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// A commit token as it is shown and typed: `TXN:START:HOME`.
pub fn token_text(token: &CommitToken) -> String {
    format!(
        "{}:{}:{}",
        token.txn,
        token.start,
        token.home.map_or(0, |home| home.0)
    )
}

/// The opposite of [`token_text`].
pub fn parse_token(text: &str) -> Option<CommitToken> {
    let mut parts = text.split(':');
    let token = CommitToken {
        txn: parts.next()?.parse::<TxnId>().ok()?,
        start: Timestamp(parts.next()?.parse().ok()?),
        home: Some(parts.next()?.parse().ok()?)
            .filter(|home| *home != 0)
            .map(StreamId),
    };
    parts.next().is_none().then_some(token)
}

/// A timestamp for people: UTC with milliseconds.
pub fn utc(timestamp: u64) -> String {
    if timestamp == 0 {
        return "-".to_owned();
    }
    let (seconds, millis) = (timestamp / 1_000_000_000, timestamp / 1_000_000 % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a civil date, with years that begin in March (Howard Hinnant's algorithm).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}")
}

/// A number with its digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Word, split};

    #[test]
    fn what_is_shown_can_be_typed() {
        let every: Vec<u8> = (0..=255).collect();
        for bytes in [
            &b"plain"[..],
            "sch\u{f6}n \u{1f600}".as_bytes(),
            b"a\\b\n\"q\"",
            b"\xff\xfe",
            &every,
            b"",
        ] {
            let shown = escape(bytes);
            assert!(!shown.contains('\n'));
            let typed = format!("\"{}\"", shown.replace('"', "\\\""));
            assert_eq!(split(&typed), Ok(vec![vec![Word::quoted(bytes)]]), "{shown}");
        }
        assert_eq!(escape(b"a\xffb\x00"), "a\\xffb\\x00");
    }

    #[test]
    fn tokens_survive() {
        for home in [None, Some(StreamId(7))] {
            let token = CommitToken {
                txn: TxnId::from_slice(&[7; 16]).unwrap(),
                start: Timestamp(12),
                home,
            };
            assert_eq!(parse_token(&token_text(&token)), Some(token));
        }
        assert_eq!(parse_token("x:1:2"), None);
        assert_eq!(parse_token("07070707-0707-0707-0707-070707070707:1"), None);
        assert_eq!(parse_token("07070707-0707-0707-0707-070707070707:1:2:3"), None);
    }

    #[test]
    fn dates_and_numbers() {
        assert_eq!(utc(1_700_000_000_500_000_000), "2023-11-14 22:13:20.500");
        assert_eq!(utc(951_782_400_000_000_000), "2000-02-29 00:00:00.000");
        assert_eq!(utc(0), "-");
        assert_eq!(
            (grouped(0), grouped(999), grouped(1_000)),
            ("0".into(), "999".into(), "1,000".into())
        );
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}
