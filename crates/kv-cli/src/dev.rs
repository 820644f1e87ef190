//! `dev`: a whole cluster in this process, with the shell on top.

use std::collections::BTreeMap;

use meridian::embedded::{Cluster, Delay, Options};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Dev, Global};
use crate::failure::{Code, Failure};
use crate::shell::regions::Regions;
use crate::shell::{Shell, remark};
use crate::{printer, shell_on};

/// Starts the cluster, runs the shell, stops the cluster.
pub async fn dev(args: &Dev, global: &Global) -> Result<(), Failure> {
    let began = tokio::time::Instant::now();
    let cluster = Cluster::start(options(args)?)
        .await
        .map_err(|error| Failure::new(Code::Failed, format!("the cluster does not start: {error}")))?;
    let data = std::path::absolute(&args.data).unwrap_or_else(|_| args.data.clone());
    remark(&format!(
        "cluster ready in {:.2} s, data in {}",
        began.elapsed().as_secs_f64(),
        data.display()
    ));
    show_regions(&cluster);
    let result = tokio::select! {
        biased;
        failure = cluster.failed() => Err(Failure::new(Code::Failed, format!("a service stopped: {failure}"))),
        result = use_it(&cluster, args, global) => result,
    };
    cluster.shutdown().await;
    remark("stopped");
    result
}

fn options(args: &Dev) -> Result<Options, Failure> {
    let mut options = Options::new(&args.data);
    options.listen = args.listen;
    if let Some(count) = args.regions.filter(|count| *count > 1) {
        options = options.regions(count);
    }
    let delays: Result<Vec<Delay>, String> = args.delay.iter().map(|text| text.parse()).collect();
    options = options.delays(delays.map_err(Failure::usage)?);
    if let Some(ms) = args.lead {
        options = options.lead_ms(ms);
    }
    if let Some(count) = args.ranges {
        options = options.split_at(even_splits(count));
    }
    if !args.split.is_empty() {
        options = options.split_at(args.split.iter().map(String::as_str));
    }
    Ok(options)
}

/// Where `count` ranges begin, but for the first, that divide keys of small letters evenly.
fn even_splits(count: u16) -> Vec<String> {
    const LETTERS: u32 = 26;
    let letter = |number: u32| char::from_u32(u32::from('a') + number).unwrap_or('z');
    (1..count)
        .map(|number| {
            let place = u32::from(number) * LETTERS * LETTERS / u32::from(count);
            let text = format!("{}{}", letter(place / LETTERS), letter(place % LETTERS));
            text.strip_suffix('a').unwrap_or(&text).to_owned()
        })
        .collect()
}

fn show_regions(cluster: &Cluster) {
    for ((from, to), link) in cluster.links() {
        remark(&format!(
            "{from} > {to}: {:.1} ms one way",
            link.delay.as_secs_f64() * 1e3
        ));
    }
    let addresses = cluster.addresses();
    for (region, address) in &addresses {
        let which = match addresses.len() {
            1 => String::new(),
            _ => format!(" (region {region})"),
        };
        remark(&format!("serving other clients at {address}{which}"));
    }
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
    let names = cluster.regions();
    let mut clients = BTreeMap::new();
    for name in &names {
        clients.insert(name.clone(), cluster.client_in(name)?);
    }
    let first = names.first().cloned().unwrap_or_default();
    let client = clients.get(&first).cloned();
    let client = client.ok_or_else(|| Failure::new(Code::Failed, "no region is active"))?;
    // The prompt shows the region, which is known once it is connected.
    client.get("\0").await?;
    let shell = Shell::new(client, Regions::embedded(clients, &first), printer(global));
    shell_on(shell, global).await
}

#[cfg(test)]
mod tests {
    use super::even_splits;

    #[test]
    fn ranges_divide_the_letters() {
        assert_eq!(even_splits(1), Vec::<String>::new());
        assert_eq!(even_splits(2), ["n"]);
        assert_eq!(even_splits(4), ["gn", "n", "tn"]);
        let many = even_splits(64);
        assert!(many.is_sorted() && many.len() == 63, "{many:?}");
    }
}
