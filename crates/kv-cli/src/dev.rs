//! `dev`: a whole cluster in this process, with the shell on top.

use meridian::embedded::{Cluster, Options};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Dev, Global};
use crate::failure::{Code, Failure};
use crate::shell::remark;
use crate::{printer, shell_on};

/// Starts the cluster, runs the shell, stops the cluster.
pub async fn dev(args: &Dev, global: &Global) -> Result<(), Failure> {
    let began = tokio::time::Instant::now();
    let mut options = Options::new(&args.data);
    options.listen = args.listen;
    let cluster = Cluster::start(options)
        .await
        .map_err(|error| Failure::new(Code::Failed, format!("the cluster does not start: {error}")))?;
    let data = std::path::absolute(&args.data).unwrap_or_else(|_| args.data.clone());
    remark(&format!(
        "cluster ready in {:.2} s, data in {}",
        began.elapsed().as_secs_f64(),
        data.display()
    ));
    if let Some(address) = cluster.address() {
        remark(&format!("serving other clients at {address}"));
    }
    let result = tokio::select! {
        biased;
        failure = cluster.failed() => Err(Failure::new(Code::Failed, format!("a service stopped: {failure}"))),
        result = use_it(&cluster, args, global) => result,
    };
    cluster.shutdown().await;
    remark("stopped");
    result
}

async fn use_it(cluster: &Cluster, args: &Dev, global: &Global) -> Result<(), Failure> {
    if args.no_shell {
        remark("^C stops it");
        let mut terminated = signal(SignalKind::terminate())?;
        return tokio::select! {
            biased;
            stopped = tokio::signal::ctrl_c() => stopped.map_err(Failure::from),
            _ = terminated.recv() => Ok(()),
        };
    }
    let client = cluster.client()?;
    // The prompt shows the region, which is known once it is connected.
    client.get("\0").await?;
    shell_on(client, printer(global), global).await
}
