//! Server processes and commands.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, Result};

/// How long a process that is asked to stop may take before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server. It is stopped when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    stop: Signal,
}

impl Process {
    /// Starts a server that writes its log to `NAME.log` in the directory, and stops by that signal. It gets a process group of its
    /// own: ^C at the terminal is for us, and we stop it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, dir: &Path, stop: Signal) -> Result<Self> {
        let path = dir.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(Error::io("open the log", &path))?;
        let errors = log.try_clone().map_err(Error::io("open the log", &path))?;
        let program = PathBuf::from(command.get_program());
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(Error::io("start the program", &program))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: path,
            stop,
        })
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error, with the end of the log, if it does not run any more.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Error::Command {
                program: self.name.clone(),
                why: format!("{status}; the end of its log:\n{}", last_lines(&self.log)),
            }),
            Err(error) => Err(Error::io("ask for the process", &self.log)(error)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut to_signal = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // Once it has ended and that was noted, its id may be somebody else's.
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            if let Some(pid) = to_signal.take() {
                let _ = kill_process(pid, self.stop);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // These know whether it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks servers until `ready` says that they are.
///
/// # Errors
/// One of them has ended, or they take longer than a minute.
pub async fn until_ready<F>(processes: &mut [Process], what: &str, mut ready: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        for process in &mut *processes {
            process.check()?;
        }
        let Err(error) = ready().await else {
            return Ok(());
        };
        if Instant::now() > deadline {
            return Err(Error::Command {
                program: what.to_owned(),
                why: format!("not ready after a minute: {error}"),
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs a command to its end, and returns what it printed. Dropping the future kills it.
///
/// # Errors
/// It cannot be started or fails; the error has the end of what it said.
pub async fn output_of(command: Command) -> Result<String> {
    let program = PathBuf::from(command.get_program());
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    let output = command.output().await;
    let output = output.map_err(Error::io("start the program", &program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Error::Command {
        program: program.display().to_string(),
        why: format!("{}\n{}", output.status, tail(&String::from_utf8_lossy(&said))),
    })
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    tail(&String::from_utf8_lossy(&text))
}

fn tail(text: &str) -> String {
    const LINES: usize = 10;
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LINES);
    lines.get(first..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_is_told_with_its_log_and_one_that_runs_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the disk is full; exit 3"]);
        let ends = Process::start("ends", command, dir.path(), Signal::TERM).unwrap();
        let waited = until_ready(&mut [ends], "it", || async { Err(Error::Usage("no".to_owned())) }).await;
        let error = waited.unwrap_err().to_string();
        assert!(
            error.contains("the disk is full") && error.contains('3'),
            "{error}"
        );

        let mut command = Command::new("sleep");
        command.arg("1000");
        let mut runs = Process::start("runs", command, dir.path(), Signal::TERM).unwrap();
        runs.check().unwrap();
        let proc = format!("/proc/{}", runs.pid());
        assert!(Path::new(&proc).exists());
        drop(runs);
        assert!(!Path::new(&proc).exists());
    }
}
