//! `bench`: how fast single puts and gets are, each client with one of them under way.

use std::time::Duration;

use meridian_client::{Client, Error};
use tokio::time::Instant;

use crate::args::Bench;
use crate::failure::{Code, Failure};
use crate::output::Printer;
use crate::shell::remark;

#[derive(Clone, Copy)]
enum Kind {
    Put,
    Get,
}

/// Measures puts, then gets.
pub async fn bench(client: &Client, args: &Bench, printer: &mut Printer) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (name, kind) in [("put", Kind::Put), ("get", Kind::Get)] {
        remark(&format!(
            "{name}: {} clients, {} s",
            args.clients,
            args.time.as_secs_f64()
        ));
        rows.push(measure(client, args, name, kind).await?);
    }
    Ok(printer.columns(
        None,
        &["operation", "count", "per second", "p50 us", "p99 us", "max us"],
        &rows,
    )?)
}

async fn measure(client: &Client, args: &Bench, name: &str, kind: Kind) -> Result<Vec<String>, Failure> {
    let end = Instant::now() + args.time;
    let began = Instant::now();
    let tasks: Vec<_> = (0..args.clients)
        .map(|number| tokio::spawn(work(client.clone(), args.clone(), kind, number, end)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        let done = task
            .await
            .map_err(|error| Failure::new(Code::Failed, format!("a task failed: {error}")))?;
        latencies.extend(done?);
    }
    let elapsed = began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let micros = |share| quantile(&latencies, share).as_micros().to_string();
    Ok(vec![
        name.to_owned(),
        latencies.len().to_string(),
        format!("{:.0}", latencies.len() as f64 / elapsed),
        micros(0.5),
        micros(0.99),
        micros(1.0),
    ])
}

/// Of latencies in order, the one below which this share of them lies.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share) as usize;
    let found = sorted.get(index.min(sorted.len().saturating_sub(1)));
    found.copied().unwrap_or_default()
}

/// Milliseconds for people.
pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

async fn work(
    client: Client,
    args: Bench,
    kind: Kind,
    number: u64,
    end: Instant,
) -> Result<Vec<Duration>, Error> {
    let value = vec![b'x'; usize::try_from(args.value_bytes).unwrap_or_default()];
    let mut latencies = Vec::new();
    // Clients walk over the keys in steps that keep them apart.
    let mut step = number;
    while Instant::now() < end {
        let key = format!("bench/{}", step % args.keys);
        step = step.wrapping_add(args.clients);
        let began = Instant::now();
        match kind {
            Kind::Put => drop(client.put(key.as_str(), value.clone()).await?),
            Kind::Get => drop(client.get(key.as_str()).await?),
        }
        latencies.push(began.elapsed());
    }
    Ok(latencies)
}
