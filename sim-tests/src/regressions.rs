//! Seeds that once showed something, each with the options that it was run with.
//!
//! ```text
//! 17                          # what it showed
//! 3 --mutation window-low     # must still be caught
//! ```

use std::ffi::OsString;

use crate::mutation::Mutation;

/// The file.
const TEXT: &str = include_str!("../regressions.txt");

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regression {
    /// The seed.
    pub seed: u64,
    /// What it is run with.
    pub options: Vec<OsString>,
    /// What is broken: then the seed must fail.
    pub mutation: Option<Mutation>,
    /// Why it is there.
    pub why: String,
}

/// All of them; an error names the line that is not understood.
pub fn all() -> Result<Vec<Regression>, String> {
    read(TEXT)
}

fn read(text: &str) -> Result<Vec<Regression>, String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| parse(line).map_err(|error| format!("regressions.txt: {line:?}: {error}")))
        .collect()
}

fn parse(line: &str) -> Result<Regression, String> {
    let (what, why) = line
        .split_once('#')
        .ok_or("a line needs a comment: why is it there?")?;
    let mut words = what.split_whitespace();
    let seed = words.next().ok_or("a line begins with its seed")?;
    let seed = seed
        .parse()
        .map_err(|error| format!("{seed:?} is no seed: {error}"))?;
    let options: Vec<&str> = words.collect();
    let named = options.iter().position(|option| *option == "--mutation");
    let mutation = named
        .map(|at| options.get(at + 1).copied().unwrap_or_default().parse())
        .transpose()?;
    Ok(Regression {
        seed,
        options: options.into_iter().map(OsString::from).collect(),
        mutation,
        why: why.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_understood() {
        all().unwrap();
    }

    #[test]
    fn lines_are_taken_apart() {
        let found = read("# a comment\n\n17 # lost a write\n3 --mutation no-sync # a lying disk\n").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].seed, found[0].why.as_str()), (17, "lost a write"));
        assert_eq!(
            found[1].mutation.map(|mutation| mutation.to_string()),
            Some("no-sync".to_owned())
        );
        assert_eq!(found[1].options, ["--mutation", "no-sync"]);
        for bad in ["17", "x # y", "3 --mutation nonsense # z"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
