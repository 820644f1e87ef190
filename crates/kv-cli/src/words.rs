//! Splits input into statements and words.
//!
//! Statements end at `;` or at the end of a line. Words are separated by blanks; in `'...'` everything is
//! literal, in `"..."` and in bare words a backslash escapes: `\n \r \t \0 \\ \" \' \; \ ` and `\xNN`. Quotes
//! may span lines. `#` at the start of a word begins a comment.

/// A word: bytes, since keys and values are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it stands for.
    pub bytes: Vec<u8>,
    /// Whether any of it was quoted: then it is no keyword.
    pub quoted: bool,
}

impl Word {
    /// A word that was quoted.
    pub fn quoted(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            quoted: true,
        }
    }

    /// Whether it is this keyword, in any case.
    pub fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.bytes.eq_ignore_ascii_case(keyword.as_bytes())
    }
}

/// Why input cannot be split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A quote is open: more input is needed.
    Incomplete,
    /// It makes no sense.
    Malformed(String),
}

/// The statements of some input. Empty ones are left out.
pub fn split(input: &str) -> Result<Vec<Vec<Word>>, Trouble> {
    let mut statements = vec![];
    let mut statement = vec![];
    let mut chars = input.chars().peekable();
    while let Some(c) = chars.peek().copied() {
        match c {
            ';' | '\n' => {
                chars.next();
                statements.push(std::mem::take(&mut statement));
            }
            c if c.is_whitespace() => {
                chars.next();
            }
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            _ => statement.push(word(&mut chars)?),
        }
    }
    statements.push(statement);
    statements.retain(|statement| !statement.is_empty());
    Ok(statements)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn word(chars: &mut Chars<'_>) -> Result<Word, Trouble> {
    let mut word = Word {
        bytes: vec![],
        quoted: false,
    };
    while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != ';') {
        match c {
            '\'' => {
                word.quoted = true;
                loop {
                    match chars.next().ok_or(Trouble::Incomplete)? {
                        '\'' => break,
                        c => push(&mut word.bytes, c),
                    }
                }
            }
            '"' => {
                word.quoted = true;
                loop {
                    match chars.next().ok_or(Trouble::Incomplete)? {
                        '"' => break,
                        '\\' => escaped(chars, &mut word.bytes)?,
                        c => push(&mut word.bytes, c),
                    }
                }
            }
            '\\' => {
                word.quoted = true;
                escaped(chars, &mut word.bytes)?;
            }
            c => push(&mut word.bytes, c),
        }
    }
    Ok(word)
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn escaped(chars: &mut Chars<'_>, bytes: &mut Vec<u8>) -> Result<(), Trouble> {
    match chars.next().ok_or(Trouble::Incomplete)? {
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        '0' => bytes.push(0),
        'x' => {
            let mut digit = || chars.next().and_then(|c| c.to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(Trouble::Malformed(
                    "\\x is followed by two hexadecimal digits".to_owned(),
                ));
            };
            // Two digits fit into a byte.
            bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
        }
        '\n' => {}
        c if c.is_alphanumeric() => {
            return Err(Trouble::Malformed(format!(
                "\\{c} is no escape; a backslash itself is written \\\\"
            )));
        }
        c => push(bytes, c),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(input: &str) -> Vec<Vec<String>> {
        let statements = split(input).unwrap();
        let text = |word: Word| crate::text::escape(&word.bytes);
        statements
            .into_iter()
            .map(|words| words.into_iter().map(text).collect())
            .collect()
    }

    #[test]
    fn statements_and_words() {
        assert_eq!(
            texts("put a 1; get a\n\n;;scan ''"),
            [vec!["put", "a", "1"], vec!["get", "a"], vec!["scan", ""]]
        );
        assert_eq!(texts("put 'a;b' \"c\nd\""), [["put", "a;b", "c\\nd"]]);
        assert_eq!(
            texts("put a\\ b\\;c \\x00\\xfF"),
            [["put", "a b;c", "\\x00\\xff"]]
        );
        assert_eq!(
            texts("put pre'fix '\"ed\\\"\" 'it''s'"),
            [["put", "prefix ed\"", "its"]]
        );
        assert_eq!(
            texts("# all of this is a comment; get a\nget b # and this\nget c#d"),
            [["get", "b"], ["get", "c#d"]]
        );
        assert_eq!(texts(" \t "), Vec::<Vec<String>>::new());
    }

    #[test]
    fn open_quotes_ask_for_more() {
        for input in ["put a 'x", "put a \"x\ny", "put a x\\", "put 'a\\'"] {
            let expect = if input.ends_with("\\'") {
                None
            } else {
                Some(Trouble::Incomplete)
            };
            assert_eq!(split(input).err(), expect, "{input}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for input in ["get \\xg0", "get \"\\x1\"", "get \\q"] {
            assert!(matches!(split(input), Err(Trouble::Malformed(_))), "{input}");
        }
    }

    #[test]
    fn quoted_words_are_no_keywords() {
        let statements = split("GET 'get' g\\et").err();
        assert!(matches!(statements, Some(Trouble::Malformed(_))));
        let statements = split("GET 'get'").unwrap();
        assert!(statements[0][0].is("get") && !statements[0][1].is("get"));
    }
}
