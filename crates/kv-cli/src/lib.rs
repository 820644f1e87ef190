//! The Meridian shell and one-shot commands.
//!
//! [`words`] splits input, [`command`] reads it, [`shell`] carries it out, [`output`] prints results;
//! [`transfer`] is import and export. Results go to standard output and nothing else does.
#![forbid(unsafe_code)]

pub mod args;
mod bench;
pub mod command;
#[cfg(feature = "embedded")]
mod dev;
pub mod doctor;
pub mod failure;
pub mod faults;
pub mod floors;
mod measure;
pub mod output;
pub mod ranges;
pub mod shell;
pub mod status;
pub mod text;
pub mod trace;
pub mod transfer;
mod watch;
pub mod words;

use std::io::IsTerminal;
use std::process::ExitCode;

use meridian_client::Client;

use crate::args::{Action, Cli, Global};
use crate::command::Command;
use crate::failure::{Code, Failure};
use crate::output::{Format, Printer};
use crate::shell::regions::Regions;
use crate::shell::{Shell, interactive, remark, script};

/// Does what the command line says; failures are told on standard error.
pub async fn run(cli: Cli) -> ExitCode {
    let result = match act(cli).await {
        Err(Failure {
            code: Code::Quiet, ..
        }) => Ok(()),
        result => result,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            remark(&failure.to_string());
            ExitCode::from(failure.code as u8)
        }
    }
}

async fn act(cli: Cli) -> Result<(), Failure> {
    let Cli { mut global, action } = cli;
    let action = action.unwrap_or(Action::Shell);
    if let Action::Trace(traced) = &action
        && traced.json
    {
        global.format = Some(Format::Json);
    }
    if global.execute.is_some() && !matches!(action, Action::Shell | Action::Dev(_)) {
        return Err(Failure::usage("-e goes with the shell and with dev only"));
    }
    if let Some(commands) = action.commands()? {
        let mut shell = Shell::new(connect(&global).await?, remote(&global), printer(&global));
        let all = async {
            for command in commands {
                shell.run(command).await?;
            }
            Ok(())
        };
        return or_interrupted(all).await;
    }
    match action {
        Action::Dev(dev) => run_dev(&dev, &global).await,
        Action::Import(import) => {
            let client = connect(&global).await?;
            transfer::import(&client, &import, global.format).await
        }
        Action::Export(export) => {
            let client = connect(&global).await?;
            or_interrupted(transfer::export(&client, &export, global.format)).await
        }
        Action::Status { watch: Some(every) } => {
            let client = connect(&global).await?;
            or_interrupted(watch::watch(&client, every, &mut printer(&global))).await
        }
        Action::Bench(args) if args.by_region => {
            let mut shell = Shell::new(connect(&global).await?, remote(&global), printer(&global));
            or_interrupted(shell.run(Command::Bench(args.time))).await
        }
        Action::Bench(args) => {
            let client = connect(&global).await?;
            or_interrupted(bench::bench(&client, &args, &mut printer(&global))).await
        }
        _ => {
            let shell = Shell::new(connect(&global).await?, remote(&global), printer(&global));
            shell_on(shell, &global).await
        }
    }
}

#[cfg(feature = "embedded")]
async fn run_dev(args: &args::Dev, global: &Global) -> Result<(), Failure> {
    dev::dev(args, global).await
}

#[cfg(not(feature = "embedded"))]
async fn run_dev(_: &args::Dev, _: &Global) -> Result<(), Failure> {
    Err(Failure::new(
        Code::Failed,
        "this kv-cli was built without the embedded cluster",
    ))
}

/// The shell in the form that was asked for: `-e`, piped input, or at the terminal.
async fn shell_on(mut shell: Shell, global: &Global) -> Result<(), Failure> {
    if let Some(text) = &global.execute {
        return or_interrupted(script::run_text(&mut shell, text)).await;
    }
    if interactive::wanted() {
        return interactive::run(&mut shell).await;
    }
    or_interrupted(script::run_lines(&mut shell, std::io::stdin().lock())).await
}

async fn or_interrupted(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        biased;
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Interrupted, "interrupted")),
    }
}

/// The regions of the cluster at the endpoints.
fn remote(global: &Global) -> Regions {
    let endpoints: Vec<String> = global
        .endpoint
        .iter()
        .chain(&global.far_endpoint)
        .cloned()
        .collect();
    Regions::remote(&endpoints, global.timeout)
}

async fn connect(global: &Global) -> Result<Client, Failure> {
    let builder = global
        .endpoint
        .iter()
        .fold(Client::builder().deadline(global.timeout), |builder, address| {
            builder.endpoint(address.trim())
        });
    let builder = global
        .far_endpoint
        .iter()
        .fold(builder, |builder, address| builder.far_endpoint(address.trim()));
    builder.connect().await.map_err(|error| {
        let failure = Failure::from(error);
        match failure.code {
            Code::Unavailable => Failure::new(Code::Unavailable, failure.what)
                .advise("is the cluster running? --endpoint (or MERIDIAN_ENDPOINT) says where to find it"),
            _ => failure,
        }
    })
}

fn printer(global: &Global) -> Printer {
    let stdout = std::io::stdout();
    let format = global.format.unwrap_or(Format::Table);
    let out: Box<dyn std::io::Write + Send> = if stdout.is_terminal() {
        Box::new(stdout)
    } else {
        Box::new(std::io::BufWriter::with_capacity(64 << 10, stdout))
    };
    Printer::new(format, out)
}
