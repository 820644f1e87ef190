//! What the shell can be told.

use std::time::Duration;

use meridian_client::proto::{AdoptAdjudicators, RangeMove};
use meridian_client::{CommitToken, Key, KeyRange, RangeChange};

use crate::args::seconds;
use crate::failure::Failure;
use crate::text::{escape, parse_token};
use crate::words::Word;

/// How long each part of `bench` runs when nothing is said.
const BENCH_TIME: Duration = Duration::from_secs(3);

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin a transaction.
    Begin {
        /// Check all reads at commit.
        serializable: bool,
        /// Refuse writes.
        read_only: bool,
        /// Read the past.
        past: Option<Past>,
    },
    /// Commit the open transaction.
    Commit,
    /// Roll the open transaction back.
    Rollback,
    /// Mark a place in the open transaction.
    Savepoint(String),
    /// Take back the writes since a savepoint.
    RollbackTo(String),
    /// Read one key.
    Get {
        /// The key.
        key: Key,
        /// Check it at commit.
        for_update: bool,
    },
    /// Set one key.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Delete keys.
    Delete(Vec<Key>),
    /// Delete all keys of a range.
    DeleteRange(KeyRange),
    /// Read a range.
    Scan(Scan),
    /// Count the keys of a range.
    Count(KeyRange),
    /// What became of a transaction.
    Outcome(CommitToken),
    /// What runs where.
    Status,
    /// What is wrong.
    Doctor,
    /// The key ranges and their owners.
    Ranges,
    /// Go to another region; `None`: show where there are some.
    Region(Option<String>),
    /// Do something to a cluster that runs in one process.
    Fault {
        /// show, cut, heal, kill, restart
        action: String,
        /// A region, a link or a node.
        target: String,
    },
    /// Measure from every region, each part for so long.
    Bench(Duration),
    /// Change them.
    ChangeRanges(RangeChange),
    /// Say where the time of a transaction goes.
    Trace(Tracing),
    /// How to use the shell.
    Help,
    /// Leave the shell.
    Exit,
}

/// Of which transactions it is said where their time goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracing {
    /// Of all from now on.
    On,
    /// Of none.
    Off,
    /// Of the one that this runs or begins.
    One(Box<Command>),
}

/// Which rows to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The keys.
    pub range: KeyRange,
    /// At most this many rows.
    pub limit: Option<u64>,
    /// From the end to the start.
    pub reverse: bool,
    /// Without values.
    pub keys_only: bool,
}

/// The shell's help. One line per command.
pub const HELP: &str = "\
begin [serializable] [read only]   open a transaction
begin at TIMESTAMP | stale SECONDS read the past: then, or at most so long ago
commit | rollback                  end it
savepoint NAME | rollback to NAME  mark a place in it, go back there
get KEY [for update]               read a key; for update: checked at commit
put KEY VALUE                      set a key
del KEY...                         delete keys
delrange PREFIX | START END        delete all keys of a range
scan [PREFIX | START END] [limit N] [reverse] [keys]
count [PREFIX | START END]         how many keys
outcome TOKEN                      what became of a transaction
status | ranges                    what runs where, who owns what
trace COMMAND | on | off           where the time of a transaction went, hop by hop: of this one, of all, of none; at a begin:
                                   told after its commit
doctor                             what is wrong, or soon will be, and what to do
region [NAME]                      read and write in another region; without a name: where one can be
fault [cut|heal REGION|A-B|A>B] [kill|restart REGION|NODE]
                                   of a cluster of dev: break and mend it; alone: how it is
bench [SECONDS]                    what reads and commits take, by region and by where the range is adjudicated
move RANGE NODE                    give a range to another adjudicator
split KEY | merge KEY              let a range begin with a key, or no more
help | exit

Outside of a transaction each command is one by itself. Keys and values: bare words, 'literal', or
\"with escapes\": \\n \\t \\\\ \\\" \\xNN. Several commands on a line are separated by ; and quotes may span lines.";

/// The words that commands begin with, for completion.
pub const NAMES: &[&str] = &[
    "begin",
    "bench",
    "commit",
    "count",
    "del",
    "delrange",
    "doctor",
    "exit",
    "fault",
    "get",
    "help",
    "merge",
    "move",
    "outcome",
    "put",
    "ranges",
    "region",
    "rollback",
    "savepoint",
    "scan",
    "split",
    "status",
    "trace",
];

/// Reads one statement.
pub fn parse(words: &[Word]) -> Result<Command, Failure> {
    let Some((name, rest)) = words.split_first() else {
        return Err(Failure::usage("an empty command"));
    };
    let known = NAMES
        .iter()
        .chain(&["delete", "quit"])
        .find(|known| name.is(known))
        .copied();
    let mut rest = Rest { words: rest };
    let command = match known {
        Some("begin") => begin(&mut rest)?,
        Some("commit") => Command::Commit,
        Some("rollback") if rest.take("to") => Command::RollbackTo(rest.text("a savepoint's name")?),
        Some("rollback") => Command::Rollback,
        Some("savepoint") => Command::Savepoint(rest.text("a name")?),
        Some("get") => Command::Get {
            key: rest.key()?,
            for_update: rest.take_both("for", "update")?,
        },
        Some("put") => Command::Put {
            key: rest.key()?,
            value: rest.word("a value")?.bytes.clone(),
        },
        Some("del" | "delete") => Command::Delete(rest.keys()?),
        Some("delrange") if rest.words.is_empty() => {
            return Err(Failure::usage("delrange needs a prefix, or a start and an end")
                .advise("to delete every key: delrange ''"));
        }
        Some("delrange") => Command::DeleteRange(rest.range()),
        Some("scan") => scan(&mut rest)?,
        Some("count") => Command::Count(rest.range()),
        Some("outcome") => {
            let text = rest.text("a token")?;
            let token = parse_token(&text);
            Command::Outcome(token.ok_or_else(|| {
                Failure::usage(format!("{text} is no token: it has the form TXN:START:HOME"))
            })?)
        }
        Some("status") => Command::Status,
        Some("doctor") => Command::Doctor,
        Some("ranges") => Command::Ranges,
        Some("region") => match rest.optional_text("a region")?.as_deref() {
            Some("drain") => drain(rest.text("a region")?),
            Some("undrain") => undrain(rest.text("a region")?),
            region => Command::Region(region.map(str::to_owned)),
        },
        Some("adopt") => adopt(),
        Some("fault") => Command::Fault {
            action: rest
                .optional_text("what to do")?
                .unwrap_or_else(|| "show".to_owned()),
            target: rest
                .optional_text("a region, a link or a node")?
                .unwrap_or_default(),
        },
        Some("bench") => {
            let time = rest.optional_text("how many seconds")?;
            let time = time.map_or(Ok(BENCH_TIME), |text| seconds(&text));
            Command::Bench(time.map_err(Failure::usage)?)
        }
        Some("move") => move_range(&rest.text("a range")?, rest.text("an adjudicator")?)?,
        Some("split") => Command::ChangeRanges(RangeChange::Split(rest.key()?.0)),
        Some("merge") => Command::ChangeRanges(RangeChange::Merge(rest.key()?.0)),
        Some("trace") => trace(&mut rest)?,
        Some("help") => Command::Help,
        Some("exit" | "quit") => Command::Exit,
        _ => {
            return Err(
                Failure::usage(format!("there is no command {}", escape(&name.bytes)))
                    .advise("help shows what there is"),
            );
        }
    };
    match rest.words.first() {
        None => Ok(command),
        Some(word) => Err(
            Failure::usage(format!("{} is too much here", escape(&word.bytes)))
                .advise("values with blanks are quoted; help shows what there is"),
        ),
    }
}

fn trace(rest: &mut Rest<'_>) -> Result<Command, Failure> {
    if rest.take("on") {
        return Ok(Command::Trace(Tracing::On));
    }
    if rest.take("off") {
        return Ok(Command::Trace(Tracing::Off));
    }
    let command = match parse(rest.words) {
        Err(failure) if rest.words.is_empty() => Err(failure.advise("trace on, trace off, or trace COMMAND")),
        result => result,
    }?;
    rest.words = &[];
    traced(command)
}

/// A command that runs or begins a transaction, to be traced.
pub fn traced(command: Command) -> Result<Command, Failure> {
    match command {
        Command::Begin { .. }
        | Command::Get { .. }
        | Command::Put { .. }
        | Command::Delete(_)
        | Command::DeleteRange(_)
        | Command::Scan(_)
        | Command::Count(_) => Ok(Command::Trace(Tracing::One(Box::new(command)))),
        _ => Err(
            Failure::usage("only what runs or begins a transaction can be traced")
                .advise("begin, get, put, del, delrange, scan, count; or trace on, for all that follows"),
        ),
    }
}

/// Which past a transaction reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// This timestamp.
    At(u64),
    /// At most so many seconds ago.
    Stale(u64),
}

fn begin(rest: &mut Rest<'_>) -> Result<Command, Failure> {
    let (mut serializable, mut read_only, mut past) = (false, false, None);
    loop {
        if rest.take("serializable") {
            serializable = true;
        } else if rest.take_both("read", "only")? {
            read_only = true;
        } else if past.is_none() && rest.take("at") {
            past = Some(Past::At(rest.number("at", "a timestamp")?));
            read_only = true;
        } else if past.is_none() && rest.take("stale") {
            past = Some(Past::Stale(rest.number("stale", "a number of seconds")?));
            read_only = true;
        } else {
            return Ok(Command::Begin {
                serializable,
                read_only,
                past,
            });
        }
    }
}

fn scan(rest: &mut Rest<'_>) -> Result<Command, Failure> {
    let mut scan = Scan {
        range: rest.range(),
        ..Scan::default()
    };
    loop {
        if rest.take("limit") {
            scan.limit = Some(rest.number("limit", "a number of rows")?);
        } else if rest.take("reverse") {
            scan.reverse = true;
        } else if rest.take("keys") {
            scan.keys_only = true;
        } else {
            return Ok(Command::Scan(scan));
        }
    }
}

/// A range as it is given: nothing, a prefix, or a start and an end (empty: without end).
pub fn range(start: Option<Key>, end: Option<Key>) -> KeyRange {
    match (start, end) {
        (None, _) => KeyRange::all(),
        (Some(prefix), None) => KeyRange::prefix(prefix),
        (Some(start), Some(end)) => KeyRange {
            start,
            end: Some(end).filter(|end| !end.0.is_empty()),
        },
    }
}

struct Rest<'a> {
    words: &'a [Word],
}

/// Words that end the keys of a range. As a key they have to be quoted.
const OPTIONS: [&str; 3] = ["limit", "reverse", "keys"];

impl<'a> Rest<'a> {
    fn take(&mut self, keyword: &str) -> bool {
        match self.words.split_first() {
            Some((word, rest)) if word.is(keyword) => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    fn take_both(&mut self, first: &str, second: &str) -> Result<bool, Failure> {
        if !self.take(first) {
            return Ok(false);
        }
        if !self.take(second) {
            return Err(Failure::usage(format!("{first} is followed by {second}")));
        }
        Ok(true)
    }

    fn word(&mut self, what: &str) -> Result<&'a Word, Failure> {
        let (word, rest) = self
            .words
            .split_first()
            .ok_or_else(|| Failure::usage(format!("{what} is missing")))?;
        self.words = rest;
        Ok(word)
    }

    fn text(&mut self, what: &str) -> Result<String, Failure> {
        let word = self.word(what)?;
        String::from_utf8(word.bytes.clone()).map_err(|_| Failure::usage(format!("{what} has to be text")))
    }

    fn number(&mut self, keyword: &str, what: &str) -> Result<u64, Failure> {
        let text = self.text(what)?;
        let number = text.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| Failure::usage(format!("{keyword} {text}: a number above 0 is needed")))
    }

    fn optional_text(&mut self, what: &str) -> Result<Option<String>, Failure> {
        if self.words.is_empty() {
            Ok(None)
        } else {
            self.text(what).map(Some)
        }
    }

    fn key(&mut self) -> Result<Key, Failure> {
        let word = self.word("a key")?;
        if word.bytes.is_empty() {
            return Err(Failure::usage("a key has at least one byte"));
        }
        Ok(word.bytes.as_slice().into())
    }

    fn keys(&mut self) -> Result<Vec<Key>, Failure> {
        let mut keys = vec![self.key()?];
        while !self.words.is_empty() {
            keys.push(self.key()?);
        }
        Ok(keys)
    }

    fn range(&mut self) -> KeyRange {
        let start = self.bound();
        let end = start.as_ref().and_then(|_| self.bound());
        range(start, end)
    }

    fn bound(&mut self) -> Option<Key> {
        let (word, rest) = self.words.split_first()?;
        if OPTIONS.iter().any(|option| word.is(option)) {
            return None;
        }
        self.words = rest;
        Some(word.bytes.as_slice().into())
    }
}

/// `region drain a`
pub fn drain(region: String) -> Command {
    Command::ChangeRanges(RangeChange::Drain(region))
}

/// `region undrain a`
pub fn undrain(region: String) -> Command {
    Command::ChangeRanges(RangeChange::Undrain(region))
}

/// `adopt`
pub fn adopt() -> Command {
    Command::ChangeRanges(RangeChange::Adopt(AdoptAdjudicators {}))
}

/// `move r3 adjudicator-b`: with or without the `r`.
pub fn move_range(range: &str, node: String) -> Result<Command, Failure> {
    let number = range.strip_prefix('r').unwrap_or(range);
    let range = number
        .parse()
        .map_err(|_| Failure::usage(format!("{range} is no range: they are called r1, r2 and so on")))?;
    Ok(Command::ChangeRanges(RangeChange::Move(RangeMove {
        range,
        node,
    })))
}
