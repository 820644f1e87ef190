//! Many seeds: one process each, a few at a time.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often running seeds are looked at.
const POLL: Duration = Duration::from_millis(10);
/// A seed that takes longer than this in real time hangs.
const HANGS_AFTER: Duration = Duration::from_secs(300);
/// What a seed says last, for the driver: digest, simulated milliseconds, committed, aborted, in doubt, faults.
pub const SUMMARY: &str = "SUMMARY";

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
}

/// What came of all seeds.
#[derive(Debug, Default)]
pub struct Total {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those that failed, in the order in which they did.
    pub failed: Vec<u64>,
    /// Simulated time.
    pub simulated: Duration,
    /// Transactions acknowledged, aborted, and in doubt.
    pub outcomes: [u64; 3],
    /// Faults injected.
    pub faults: u64,
    /// The longest that one seed took.
    pub slowest: (Duration, u64),
    /// Real time of all seeds together.
    pub busy: Duration,
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
                println!("seed {} FAILED: it hangs: no end after {HANGS_AFTER:?}", one.seed);
                total.failed.push(one.seed);
            }
            None => {
                running.push_back(one);
                std::thread::sleep(POLL);
            }
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            progress(&total, began.elapsed());
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
        .stderr(Stdio::inherit())
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
    let output = ended.output.join().unwrap_or_default();
    let summary = output
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(SUMMARY))
        .unwrap_or_default()
        .to_owned();
    if let Some(first) = &ended.first
        && *first != summary
    {
        println!(
            "seed {} FAILED: not deterministic: first{first}, then{summary}",
            ended.seed
        );
        total.failed.push(ended.seed);
        return Ok(None);
    }
    if job.twice && ended.first.is_none() {
        count(total, ended.seed, &output, &summary, is_success, took);
        return start(job, ended.seed, Some(summary)).map(Some);
    }
    if ended.first.is_none() {
        count(total, ended.seed, &output, &summary, is_success, took);
    }
    Ok(None)
}

fn count(total: &mut Total, seed: u64, output: &str, summary: &str, is_success: bool, took: Duration) {
    total.seeds += 1;
    if took > total.slowest.0 {
        total.slowest = (took, seed);
    }
    let figures: Vec<u64> = summary
        .split_whitespace()
        .skip(1)
        .filter_map(|figure| figure.parse().ok())
        .collect();
    if let [simulated_ms, committed, aborted, unknown, faults] = figures[..] {
        total.simulated += Duration::from_millis(simulated_ms);
        for (sum, count) in total.outcomes.iter_mut().zip([committed, aborted, unknown]) {
            *sum += count;
        }
        total.faults += faults;
    }
    if !is_success {
        total.failed.push(seed);
        println!("seed {seed} FAILED");
        for line in output.lines().filter(|line| !line.starts_with(SUMMARY)) {
            println!("    {line}");
        }
    }
}

fn progress(total: &Total, elapsed: Duration) {
    println!("{:>5.0} s: {total}", elapsed.as_secs_f64());
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [committed, aborted, unknown] = self.outcomes;
        write!(
            f,
            "{} seeds, {} failed; {:.0} s simulated, {} faults, {committed} commits, {aborted} aborts, {unknown} in doubt; \
             {:.2} s per seed, at most {:.1} s (seed {})",
            self.seeds,
            self.failed.len(),
            self.simulated.as_secs_f64(),
            self.faults,
            self.busy.as_secs_f64() / self.seeds.max(1) as f64,
            self.slowest.0.as_secs_f64(),
            self.slowest.1,
        )
    }
}
