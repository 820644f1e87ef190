//! The `kv-bench` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use kv_bench::args::Cli;
use kv_bench::{run, tell};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("MERIDIAN_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(&format!("error: no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(act(cli))
}

/// What is cut off is dropped, and with it all servers and their files.
async fn act(cli: Cli) -> ExitCode {
    let mut terminated = match signal(SignalKind::terminate()) {
        Ok(terminated) => terminated,
        Err(error) => {
            tell(&format!("error: no signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => interrupted("SIGINT"),
        _ = terminated.recv() => interrupted("SIGTERM"),
        result = run(cli) => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tell(&format!("error: {error}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn interrupted(by: &str) -> ExitCode {
    tell(&format!("interrupted by {by}"));
    ExitCode::from(130)
}
