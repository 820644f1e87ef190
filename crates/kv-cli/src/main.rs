//! The `kv-cli` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use kv_cli::args::Cli;
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
            kv_cli::shell::remark(&format!("error: no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(kv_cli::run(cli));
    // A thread that waits for input must not keep us.
    runtime.shutdown_background();
    code
}
