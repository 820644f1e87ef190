//! Golden scripts: one scenario per file in `tests/golden`, named for what it shows.
//!
//! A line `> command` is run; the lines below it are what it says. `UPDATE_GOLDEN=1` rewrites them, and the diff is to be read.

mod journal;
mod owner;

use std::collections::BTreeMap;
use std::path::Path;

use meridian_types::{Key, KeyRange, Position, Timestamp};

/// A command's words: a name, `key=value` arguments and plain ones.
pub struct Command<'a> {
    pub name: &'a str,
    pub plain: Vec<&'a str>,
    pub named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Command<'a> {
    fn parse(line: &'a str) -> Self {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a command");
        let mut command = Self {
            name,
            plain: Vec::new(),
            named: BTreeMap::new(),
        };
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => {
                    command.named.insert(name, value);
                }
                None => command.plain.push(word),
            }
        }
        command
    }

    pub fn number(&self, name: &str) -> u64 {
        self.maybe(name)
            .unwrap_or_else(|| panic!("{} needs {name}=", self.name))
    }

    pub fn maybe(&self, name: &str) -> Option<u64> {
        self.named.get(name).map(|value| value.parse().expect("a number"))
    }

    pub fn time(&self, name: &str) -> Timestamp {
        Timestamp(self.number(name))
    }

    /// `name=a,b`; nothing when it is not given.
    pub fn list(&self, name: &str) -> Vec<&'a str> {
        self.named
            .get(name)
            .map(|list| list.split(',').collect())
            .unwrap_or_default()
    }
}

/// `e1/4`.
pub fn position(text: &str) -> Position {
    let parts = text.strip_prefix('e').and_then(|rest| rest.split_once('/'));
    let (epoch, lsn) = parts.unwrap_or_else(|| panic!("{text} is not a position"));
    Position::new(epoch.parse().expect("an epoch"), lsn.parse().expect("an lsn"))
}

/// `a` or `a..b`.
pub fn key_range(text: &str) -> KeyRange {
    match text.split_once("..") {
        Some((start, end)) => KeyRange::new(Key::from(start), Key::from(end)),
        None => KeyRange::point(Key::from(text)),
    }
}

#[derive(Default)]
struct Script {
    owner: owner::Owner,
    journal: journal::Journal,
}

impl Script {
    fn run(&mut self, line: &str) -> String {
        let command = Command::parse(line);
        let said = self.owner.run(&command).or_else(|| self.journal.run(&command));
        said.unwrap_or_else(|| panic!("there is no command {}", command.name))
    }
}

fn run_script(text: &str) -> String {
    let mut script = Script::default();
    let mut result = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            result.push_str(&format!("{line}\n"));
            for said in script.run(command).lines() {
                result.push_str(&format!("{said}\n"));
            }
        } else if line.is_empty() || line.starts_with('#') {
            result.push_str(&format!("{line}\n"));
        }
    }
    result
}

#[test]
fn scripts_say_what_they_said() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(&folder).expect("the folder of scripts");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 15, "scripts are missing");
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a script");
        let said = run_script(&text);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, said).expect("the script can be written");
        } else {
            assert!(text == said, "{} now says:\n{said}", path.display());
        }
    }
}
