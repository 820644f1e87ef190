//! What a process publishes for Prometheus: `GET /metrics`, and nothing else.
//!
//! Half of it the services count themselves; the other half is their status, read when somebody asks (`scrape`). The names of all are
//! in `meridian_metrics::names`. Only `serve` installs a recorder: in embedded clusters and simulations nothing is counted.

mod http;
mod scrape;

use std::time::Duration;

use meridian_metrics::{Family, Kind, names};
use metrics::Recorder;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::NodeSection;
use crate::error::Error;
use crate::status::NodeReport;

/// How often what histograms were given is gathered, so that it does not pile up while nobody asks.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(2);

/// A process whose services will be heard of.
pub struct Metrics {
    labels: Labels,
    counted: PrometheusHandle,
    socket: TcpListener,
}

/// Which node it is: every series says so.
#[derive(Clone, Debug)]
struct Labels {
    node: String,
    region: String,
}

impl Metrics {
    /// Binds the address and begins to count, once in a process.
    pub async fn listen(node: &NodeSection, address: &str) -> Result<Self, Error> {
        let listen_error = |source| Error::Listen {
            address: address.to_owned(),
            source,
        };
        let socket = TcpListener::bind(address).await.map_err(listen_error)?;
        let labels = Labels {
            node: node.name.clone(),
            region: node.region.clone(),
        };
        let recorder = labels.recorder().map_err(unfit)?;
        let counted = recorder.handle();
        metrics::set_global_recorder(recorder)
            .map_err(|_| Error::Usage("this process publishes the metrics of a node already".to_owned()))?;
        tracing::info!(node = %node.name, address, "metrics");
        Ok(Self {
            labels,
            counted,
            socket,
        })
    }

    /// Answers whoever asks until what is returned goes.
    pub fn publish(self, report: NodeReport) -> DropGuard {
        let stop = CancellationToken::new();
        let counted = self.counted.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                counted.run_upkeep();
            }
        }));
        let Self {
            labels,
            counted,
            socket,
        } = self;
        let text = move || {
            let shown = scrape::status(&labels, &report.report());
            shown.map(|shown| counted.render() + &shown).map_err(unfit)
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(http::serve(socket, text)));
        stop.drop_guard()
    }
}

impl Labels {
    /// A recorder that knows what each family means.
    fn recorder(&self) -> Result<metrics_exporter_prometheus::PrometheusRecorder, BuildError> {
        let mut builder = PrometheusBuilder::new()
            .add_global_label("node", &self.node)
            .add_global_label("region", &self.region);
        for family in names::ALL {
            if let Kind::Histogram(bounds) = family.kind {
                builder = builder.set_buckets_for_metric(Matcher::Full(family.name.to_owned()), bounds)?;
            }
        }
        let recorder = builder.build_recorder();
        for family in names::ALL {
            describe(&recorder, family);
        }
        Ok(recorder)
    }
}

fn describe(recorder: &impl Recorder, family: &Family) {
    let (name, help) = (family.name.into(), family.help.into());
    match family.kind {
        Kind::Counter => recorder.describe_counter(name, None, help),
        Kind::Gauge => recorder.describe_gauge(name, None, help),
        Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
    }
}

/// Cannot be: the bounds of all histograms are known beforehand.
fn unfit(error: BuildError) -> Error {
    Error::Usage(format!("metrics cannot be recorded: {error}"))
}
