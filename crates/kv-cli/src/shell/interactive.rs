//! The shell at a terminal: line editing, history, completion, timing.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};
use tokio::time::Instant;

use crate::command::{Command, NAMES, parse};
use crate::failure::{Code, Failure};
use crate::shell::{Shell, remark};
use crate::words::{Trouble, split};

const HISTORY_LINES: usize = 10_000;

/// Reads and runs statements until the user leaves.
pub async fn run(shell: &mut Shell) -> Result<(), Failure> {
    let broken = |error: ReadlineError| Failure::new(Code::Failed, format!("the terminal: {error}"));
    let config = Config::builder()
        .max_history_size(HISTORY_LINES)
        .map_err(broken)?
        .history_ignore_space(true)
        .auto_add_history(true)
        .build();
    let mut editor: Editor<Assistant, FileHistory> = Editor::with_config(config).map_err(broken)?;
    editor.set_helper(Some(Assistant));
    let history = history_file();
    if let Some(file) = &history {
        // The first time there is none.
        let _ = editor.load_history(file);
    }
    remark("help shows the commands, ^D leaves");
    let mut interrupted = false;
    loop {
        match editor.readline(&shell.prompt()) {
            Ok(input) => {
                interrupted = false;
                if run_input(shell, &input).await? {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) if !interrupted => {
                interrupted = true;
                remark("^C again, or ^D, leaves");
            }
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => break,
            Err(error) => return Err(broken(error)),
        }
    }
    if let Some(file) = &history
        && let Err(error) = editor.save_history(file)
    {
        remark(&format!(
            "the history cannot be kept in {}: {error}",
            file.display()
        ));
    }
    if shell.in_transaction() {
        remark("the open transaction is rolled back");
        let _ = shell.run(Command::Rollback).await;
    }
    Ok(())
}

/// Runs the statements of one input; true: leave. The first that fails ends the input, not the shell.
async fn run_input(shell: &mut Shell, input: &str) -> Result<bool, Failure> {
    let statements = match split(input) {
        Ok(statements) => statements,
        Err(Trouble::Incomplete) => return Ok(false),
        Err(Trouble::Malformed(why)) => {
            remark(&Failure::usage(why).to_string());
            return Ok(false);
        }
    };
    for words in statements {
        let began = Instant::now();
        let result = match parse(&words) {
            Ok(Command::Exit) => return Ok(true),
            Ok(command) => tokio::select! {
                biased;
                result = shell.run(command) => result,
                // Dropping the command ends it on the server as well.
                _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Interrupted, "interrupted")),
            },
            Err(failure) => Err(failure),
        };
        match result {
            Ok(()) => remark(&format!("({})", duration(began.elapsed()))),
            Err(failure) => {
                remark(&failure.to_string());
                break;
            }
        }
    }
    Ok(false)
}

fn duration(elapsed: Duration) -> String {
    match elapsed.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}

/// `MERIDIAN_HISTORY`, or a file in the home directory. None when there is no home.
fn history_file() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("MERIDIAN_HISTORY") {
        return Some(PathBuf::from(file)).filter(|file| !file.as_os_str().is_empty());
    }
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".meridian_history"))
}

/// Whether somebody sits in front of us.
pub fn wanted() -> bool {
    std::io::stdin().is_terminal()
}

/// Completes commands, and asks for more while a quote is open.
struct Assistant;

impl Helper for Assistant {}
impl Highlighter for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match split(context.input()) {
            Err(Trouble::Incomplete) => ValidationResult::Incomplete,
            Ok(_) | Err(Trouble::Malformed(_)) => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, line: &str, place: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(completions(line.get(..place).unwrap_or_default()))
    }
}

/// What the last word may become, and where that word begins.
fn completions(typed: &str) -> (usize, Vec<String>) {
    let statement = typed.rfind([';', '\n']).map_or(0, |end| end + 1);
    let words: Vec<&str> = typed[statement..].split_whitespace().collect();
    let begun = if typed.ends_with(char::is_whitespace) {
        ""
    } else {
        words.last().copied().unwrap_or_default()
    };
    let before = words.len() - usize::from(!begun.is_empty());
    let candidates: &[&str] = match (
        before,
        words.first().map(|name| name.to_ascii_lowercase()).as_deref(),
    ) {
        (0, _) => NAMES,
        (_, Some("begin")) => &["serializable", "read only", "at", "stale"],
        (1, Some("rollback")) => &["to"],
        (1, Some("trace")) => &[
            "on", "off", "begin", "get", "put", "del", "delrange", "scan", "count",
        ],
        (2, Some("get")) => &["for update"],
        (_, Some("scan")) => &["limit", "reverse", "keys"],
        _ => &[],
    };
    let fitting = candidates
        .iter()
        .filter(|candidate| candidate.starts_with(&begun.to_ascii_lowercase()))
        .map(|candidate| format!("{candidate} "))
        .collect();
    (typed.len() - begun.len(), fitting)
}

#[cfg(test)]
mod tests {
    use super::completions;

    #[test]
    fn commands_and_their_keywords_are_completed() {
        let complete = |typed: &str| {
            let (from, found) = completions(typed);
            (
                from,
                found
                    .iter()
                    .map(|word| word.trim_end().to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(complete("sc"), (0, vec!["scan".to_owned()]));
        assert_eq!(complete("put a b; GE"), (9, vec!["get".to_owned()]));
        assert_eq!(complete("begin se"), (6, vec!["serializable".to_owned()]));
        assert_eq!(complete("scan a limit 3 re"), (15, vec!["reverse".to_owned()]));
        assert_eq!(complete("get k "), (6, vec!["for update".to_owned()]));
        assert_eq!(complete("put k v"), (6, vec![]));
        assert_eq!(complete("").1.len(), crate::command::NAMES.len());
    }
}
