//! The server binary.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command, ConfigCommand, HealthArgs, InitArgs, ServeArgs};
use meridian::config::{Loaded, check};
use meridian::error::Error;
use meridian::init::{self, InitOptions};
use meridian::logging;
use meridian::probe;
use meridian::serve::{self, ServeOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve(args),
        Command::Init(args) => init(args),
        Command::Health(args) => health(&args),
        Command::Config(ConfigCommand::Check(args)) => check(&args.config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meridian: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: ServeArgs) -> Result<(), Error> {
    logging::init(&args.log, args.log_format).map_err(Error::Usage)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = args.threads {
        runtime.worker_threads(threads.get());
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Error::Usage(format!("the runtime does not start: {error}")))?;
    let options = ServeOptions {
        config: args.config,
        node: args.node,
        roles: args.role,
        listen: args.listen,
        data_dir: args.data_dir,
        metrics: args.metrics,
        seed: args.seed.unwrap_or_else(rand::random),
    };
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        stop_on_signals(shutdown.clone())?;
        serve::serve(options, shutdown).await
    })
}

/// The first SIGTERM or SIGINT asks for a clean end; a second one ends the process where it stands.
fn stop_on_signals(shutdown: CancellationToken) -> Result<(), Error> {
    let listen =
        |kind| signal(kind).map_err(|error| Error::Usage(format!("signals cannot be handled: {error}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for count in 0.. {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if count > 0 {
                eprintln!("meridian: stopped by a second signal");
                std::process::exit(1);
            }
            shutdown.cancel();
        }
    });
    Ok(())
}

fn init(args: InitArgs) -> Result<(), Error> {
    let options = InitOptions {
        config: args.config,
        node: args.node,
        replace_lost_disk: args.replace_lost_disk,
        template: args.template,
        if_needed: args.if_needed,
    };
    for line in init::init(&options, new_id)? {
        eprintln!("{line}");
    }
    Ok(())
}

fn health(args: &HealthArgs) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Usage(format!("the runtime does not start: {error}")))?;
    runtime.block_on(probe::ask(
        &args.config,
        &args.node,
        args.at.as_deref(),
        &args.service,
    ))
}

/// Drawn from the operating system: ids of clusters and disks must never meet.
fn new_id() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

fn check(path: &std::path::Path) -> Result<(), Error> {
    let loaded = Loaded::read(path)?;
    let problems = check::check(&loaded.file, &loaded.text);
    for problem in &problems {
        eprintln!("{}: {problem}", path.display());
    }
    let errors = problems.iter().filter(|problem| problem.is_error).count();
    if errors > 0 {
        return Err(Error::Usage(format!(
            "{}: not fit for use, errors: {errors}",
            path.display()
        )));
    }
    let nodes = loaded.file.nodes.len();
    let created = match loaded.file.cluster.id {
        Some(id) => format!("cluster {id}"),
        None => "not created yet (`meridian init` does that)".to_owned(),
    };
    eprintln!("{}: fit for use: {nodes} nodes, {created}", path.display());
    Ok(())
}
