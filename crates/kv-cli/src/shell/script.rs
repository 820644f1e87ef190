//! Statements from `-e` or from piped input: carried out in order, until one fails.

use std::io::BufRead;

use crate::command::{Command, parse};
use crate::failure::{Code, Failure};
use crate::shell::Shell;
use crate::words::{Trouble, Word, split};

/// Runs the statements of a text.
pub async fn run_text(shell: &mut Shell, text: &str) -> Result<(), Failure> {
    let statements = match split(text) {
        Ok(statements) => statements,
        Err(Trouble::Incomplete) => return Err(Failure::usage("a quote is not closed")),
        Err(Trouble::Malformed(why)) => return Err(Failure::usage(why)),
    };
    run_statements(shell, &statements).await?;
    finish(shell).await
}

/// Runs what is read, line by line: what comes in is carried out before the next is read.
pub async fn run_lines(shell: &mut Shell, mut input: impl BufRead) -> Result<(), Failure> {
    let mut pending = String::new();
    let (mut number, mut first) = (0_u64, 0_u64);
    loop {
        number += 1;
        if pending.is_empty() {
            first = number;
        }
        let at_line = |failure: Failure| {
            let mut failure = failure;
            failure.what = format!("line {first}: {}", failure.what);
            failure
        };
        let end = input
            .read_line(&mut pending)
            .map_err(|error| at_line(error.into()))?
            == 0;
        match split(&pending) {
            Ok(statements) => {
                pending.clear();
                match run_statements(shell, &statements).await.map_err(at_line)? {
                    Next::Leave => break,
                    Next::Go => {}
                }
            }
            Err(Trouble::Incomplete) if !end => {}
            Err(Trouble::Incomplete) => return Err(at_line(Failure::usage("a quote is not closed"))),
            Err(Trouble::Malformed(why)) => return Err(at_line(Failure::usage(why))),
        }
        if end {
            break;
        }
    }
    finish(shell).await
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// With the next statement.
    Go,
    /// No more: `exit`.
    Leave,
}

async fn run_statements(shell: &mut Shell, statements: &[Vec<Word>]) -> Result<Next, Failure> {
    for words in statements {
        match parse(words)? {
            Command::Exit => return Ok(Next::Leave),
            command => shell.run(command).await?,
        }
    }
    Ok(Next::Go)
}

/// A script that leaves a transaction open has not done what it says.
async fn finish(shell: &mut Shell) -> Result<(), Failure> {
    if !shell.in_transaction() {
        return Ok(());
    }
    let _ = shell.run(Command::Rollback).await;
    Err(Failure::new(Code::Failed, "the input ended inside a transaction")
        .advise("it was rolled back; end it with commit or rollback"))
}
