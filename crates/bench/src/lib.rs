//! `kv-bench`: Meridian beside what one would pick instead, in one run on one machine.
//!
//! [`workload`] says what clients do, [`load`] when, [`system`] to whom; [`measure`] puts the three together, [`mod@run`], [`overload`] and
//! [`mod@scale`] are the commands, [`report`] shows what came of it.
//!
//! Invariant: workloads and load know no system, and no system knows the workload.
#![forbid(unsafe_code)]

pub mod args;
mod cpu;
pub mod error;
pub mod floors;
pub mod load;
pub mod measure;
pub mod overload;
pub mod peers;
mod proxy;
pub mod report;
pub mod run;
pub mod scale;
pub mod system;
pub mod workload;

use std::io::Write;
use std::path::Path;

use crate::args::{Action, Cli, FloorsArgs, LoadArgs, OverloadArgs, PeersAction, SiteArgs};
use crate::error::{Error, Result};
use crate::run::Started;
use crate::system::Kind;

/// Does what the command line says. Dropping the future stops every server and removes its files.
///
/// # Errors
/// What could not be done.
pub async fn run(cli: Cli) -> Result<()> {
    match cli.action {
        Action::Run(args) => compare(&[args.system], &args.load, &args.site).await,
        Action::Compare(args) => compare(&args.systems, &args.load, &args.site).await,
        Action::Overload(args) => overload(&args).await,
        Action::Floors(args) => floors(&args).await,
        Action::Scale(args) => {
            let lines = |lines: &[scale::Line]| lines.iter().try_for_each(|line| show(&report::line(line)));
            let tables = |lines: &[scale::Line]| {
                if lines.is_empty() {
                    Ok(())
                } else {
                    show(&scale::table(lines))
                }
            };
            if args.json {
                scale::scale(&args, lines).await
            } else {
                scale::scale(&args, tables).await
            }
        }
        Action::Peers(PeersAction::Install(args)) => {
            let done = args.peers().install().await;
            done.into_iter().try_for_each(|done| show(&done?))
        }
        Action::Peers(PeersAction::Status(args)) => Kind::ALL.into_iter().try_for_each(|kind| {
            let missing = args.peers().missing(kind);
            show(&missing.map_or_else(|| format!("{kind} is there"), |missing| missing.to_string()))
        }),
    }
}

async fn compare(kinds: &[Kind], load: &LoadArgs, site: &SiteArgs) -> Result<()> {
    let plan = load.plan(site);
    let most = plan.clients.iter().max().copied().unwrap_or_default();
    let started = Started::start(kinds, site, most).await?;
    let mut shown = Ok(());
    let reports = run::compare(&started, &plan, |report| {
        if site.json {
            shown = show(&report::line(report));
        } else {
            tell(&format!(
                "{} {} with {} clients: {:.0}/s",
                report.system, report.workload, report.clients, report.ops_per_s
            ));
        }
    });
    let reports = reports.await;
    started.stop().await;
    let reports = reports?;
    shown?;
    if !site.json {
        show(&report::table(&reports))?;
    }
    if let Some(path) = &load.plot {
        write(path, &report::plot(&reports))?;
    }
    Ok(())
}

async fn overload(args: &OverloadArgs) -> Result<()> {
    let started = Started::start(&[args.system], &args.site, args.clients as usize).await?;
    let results = overload::overload(&started, args).await;
    started.stop().await;
    for (steps, recovery) in results? {
        if args.site.json {
            steps.iter().try_for_each(|step| show(&report::line(step)))?;
            show(&report::line(&recovery))?;
        } else {
            show(&report::overload_table(&steps))?;
            let time = recovery.recovery_s.map_or_else(
                || "not as long as it was measured".to_owned(),
                |seconds| format!("{seconds:.1} s after the load was back at half of the peak"),
            );
            show(&format!("peak {:.0}/s; recovered: {time}", recovery.peak_per_s))?;
        }
    }
    Ok(())
}

async fn floors(args: &FloorsArgs) -> Result<()> {
    let dir = args.site.place.directory()?;
    let started = Started::start(&[floors::SYSTEM], &args.site, 1).await?;
    let found = floors::floors(&started, args, dir.path()).await;
    started.stop().await;
    let found = found?;
    if args.site.json {
        return show(&report::line(&found));
    }
    show(&report::floors_table(&found))
}

/// A result.
fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(Error::io("write", Path::new("standard output")))
}

/// Anything else.
pub fn tell(text: &str) {
    // If nobody listens there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::io("write", path))
}
