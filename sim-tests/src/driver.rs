//! Many seeds: one process each, a few at a time.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

mod total;

pub use total::{Said, Total, summary, violated};

/// How often running seeds are looked at.
const POLL: Duration = Duration::from_millis(10);
/// A seed that takes longer than this in real time hangs.
const HANGS_AFTER: Duration = Duration::from_secs(300);
/// What to run.
pub struct Job {
    /// The program, which is this one.
    pub program: PathBuf,
    /// Options that every seed is run with.
    pub options: Vec<OsString>,
    /// How many at a time.
    pub jobs: usize,
    /// Run each seed twice and compare.
    pub twice: bool,
    /// Begin no seed after this.
    pub until: Option<Duration>,
    /// Stop at the first failure.
    pub stop_at_first: bool,
    /// Say nothing of failures and progress.
    pub quiet: bool,
}

struct Running {
    seed: u64,
    child: Child,
    output: std::thread::JoinHandle<String>,
    began: Instant,
    /// What the first run of the seed said, if this is the second.
    first: Option<String>,
}

/// Runs the seeds; prints a line for each failure, and one of progress now and then.
pub fn run(job: &Job, seeds: impl Iterator<Item = u64>) -> io::Result<Total> {
    let began = Instant::now();
    let mut seeds = seeds.fuse();
    let mut running: VecDeque<Running> = VecDeque::new();
    let mut total = Total::default();
    let mut told = Instant::now();
    loop {
        let is_in_time = job.until.is_none_or(|until| began.elapsed() < until);
        let may_begin = is_in_time && (total.failed.is_empty() || !job.stop_at_first);
        while may_begin && running.len() < job.jobs.max(1) {
            let Some(seed) = seeds.next() else { break };
            running.push_back(start(job, seed, None)?);
        }
        let Some(mut one) = running.pop_front() else {
            total.wall = began.elapsed();
            return Ok(total);
        };
        match one.child.try_wait()? {
            Some(status) => {
                let again = finish(job, one, status.success(), &mut total)?;
                running.extend(again);
            }
            None if one.began.elapsed() > HANGS_AFTER => {
                one.child.kill()?;
                one.child.wait()?;
                fail(
                    job,
                    &mut total,
                    one.seed,
                    "hangs",
                    &format!("no end after {HANGS_AFTER:?}"),
                );
            }
            None => {
                running.push_back(one);
                std::thread::sleep(POLL);
            }
        }
        if told.elapsed() > Duration::from_secs(10) && !job.quiet {
            told = Instant::now();
            println!("{:>5.0} s: {total}", began.elapsed().as_secs_f64());
        }
    }
}

fn start(job: &Job, seed: u64, first: Option<String>) -> io::Result<Running> {
    let mut child = Command::new(&job.program)
        .arg("--seed")
        .arg(seed.to_string())
        .args(&job.options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(if job.quiet {
            Stdio::null()
        } else {
            Stdio::inherit()
        })
        .spawn()?;
    let mut stdout = child.stdout.take();
    // Read as it comes, or a long report would block the child.
    let output = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(stdout) = &mut stdout {
            // What was read so far is shown.
            let _ = stdout.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    Ok(Running {
        seed,
        child,
        output,
        began: Instant::now(),
        first,
    })
}

/// Counts it; answers the second run of the seed, if there is one to come.
fn finish(job: &Job, ended: Running, is_success: bool, total: &mut Total) -> io::Result<Option<Running>> {
    let took = ended.began.elapsed();
    total.busy += took;
    let said = Said::new(&ended.output.join().unwrap_or_default());
    if let Some(first) = &ended.first {
        if *first != said.summary {
            let what = format!("first{first}, then{}", said.summary);
            fail(job, total, ended.seed, "not deterministic", &what);
        }
        return Ok(None);
    }
    total.count(ended.seed, &said, is_success, took);
    if !is_success && !job.quiet {
        println!("seed {} FAILED", ended.seed);
        for line in &said.report {
            println!("    {line}");
        }
    }
    match job.twice {
        true => start(job, ended.seed, Some(said.summary)).map(Some),
        false => Ok(None),
    }
}

/// A failure that the seed itself could not tell.
fn fail(job: &Job, total: &mut Total, seed: u64, name: &str, what: &str) {
    if !job.quiet {
        println!("seed {seed} FAILED: {name}: {what}");
    }
    total.failed.push((seed, vec![name.to_owned()]));
}
