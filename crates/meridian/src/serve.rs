//! One node as a process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meridian_clock::{SharedClock, SystemClock};
use meridian_rpc::metered::metered;
use meridian_rpc::{Identity, Listener, LocalNodes, Network, TcpDialer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{AgreedSettings, ClockSource, File, Loaded, NodeSection, Role};
use crate::error::Error;
use crate::init;
use crate::lock::DirectoryLock;
use crate::metrics::Metrics;
use crate::node::{Node, NodeStart};

/// How often a process that waits to become ready says what it waits for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What to serve. What is `None` comes from the file.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// The node's name in it.
    pub node: String,
    /// Some of the node's roles.
    pub roles: Option<Vec<Role>>,
    /// Listen here; the others still call the address in the file.
    pub listen: Option<String>,
    /// Keep files here.
    pub data_dir: Option<PathBuf>,
    /// Publish metrics here.
    pub metrics: Option<String>,
    /// All randomness of the process derives from it.
    pub seed: u64,
}

/// Serves the node until `shutdown` is cancelled (then stops cleanly and returns `Ok`) or a service fails.
pub async fn serve(options: ServeOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let Loaded { file, path, .. } = Loaded::read_checked(&options.config)?;
    let mut section = file.node(&options.node)?.clone();
    section.data_dir = options.data_dir.clone().or(section.data_dir);
    let roles = chosen_roles(&section, options.roles.as_deref())?;
    section.roles = roles.clone();
    let cluster = file.cluster.id.ok_or_else(|| {
        Error::Usage(format!(
            "{} has no cluster id: run `meridian init` first",
            path.display()
        ))
    })?;
    let _lock = lock_directory(&section)?;

    let listen = options.listen.as_deref().unwrap_or(&section.address);
    let socket = TcpListener::bind(listen).await.map_err(|source| Error::Listen {
        address: listen.to_owned(),
        source,
    })?;
    let address = socket
        .local_addr()
        .map_or_else(|_| listen.to_owned(), |address| address.to_string());
    tracing::info!(node = %section.name, region = %section.region, %cluster, %address, roles = %names(&roles), "starting");

    // Before any service starts: what is counted before there is anything to count with is lost.
    let metrics = options.metrics.as_deref().or(section.metrics.as_deref());
    let metrics = match metrics {
        Some(listen) => Some(Metrics::listen(&section, listen).await?),
        None => None,
    };

    let identity = Identity {
        cluster,
        node: section.node_name(),
    };
    let local = LocalNodes::default();
    let network = Network::new(&identity, local.clone(), Arc::new(dialer(&file)));
    let node = Node::start(NodeStart {
        file: &file,
        node: &section,
        cluster,
        roles: &roles,
        clock: clock(section.clock, &file.cluster.settings),
        network,
        seed: options.seed,
    })
    .await?;
    let routes = match &metrics {
        Some(_) => metered(node.routes.clone(), &role_names(&roles)),
        None => node.routes.clone(),
    };
    local.register(identity.node.clone(), routes.clone());

    let stop_listening = CancellationToken::new();
    let _published = metrics.map(|metrics| metrics.publish(node.report.clone()));
    let max_age = max_connection_age(&section, options.seed);
    let listener = Listener::Tcp(socket);
    let served = meridian_rpc::serve_renewed(listener, routes, max_age, stop_listening.clone());
    let mut served = tokio::spawn(served);
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        failure = node.failed() => Err(Error::Usage(failure.to_string())),
        end = &mut served => Err(listening_ended(&address, end)),
        never = announce(&node, &section.name, &address) => match never {},
    };
    if ended.is_ok() {
        tracing::info!(node = %section.name, "stopping");
        tell_supervisor(&[NotifyState::Stopping]);
    }
    node.drain();
    // Still listening: whoever calls a service that drains is told so by it, with what to do instead.
    node.stop().await;
    stop_listening.cancel();
    local.remove(&identity.node);
    if !served.is_finished() {
        // An error here says only that a connection did not end in time.
        let _ = served.await;
    }
    if ended.is_ok() {
        tracing::info!(node = %section.name, "stopped");
    }
    ended
}

/// How old a client's connection may become: by chance three quarters of what is configured at least, so that the processes of a cluster
/// do not all renew theirs at once. Nodes that serve no clients keep theirs: who calls them knows them by name and keeps them alive.
fn max_connection_age(node: &NodeSection, seed: u64) -> Option<Duration> {
    let age = Duration::from_millis(node.settings.router.max_connection_age_ms);
    let part = StdRng::seed_from_u64(seed).random_range(0.75..=1.0);
    (node.has(Role::Router) && !age.is_zero()).then(|| age.mul_f64(part))
}

fn listening_ended(address: &str, end: Result<std::io::Result<()>, tokio::task::JoinError>) -> Error {
    let source = match end {
        Ok(Ok(())) => std::io::Error::other("the listener ended although nobody asked it to"),
        Ok(Err(error)) => error,
        Err(error) => std::io::Error::other(error),
    };
    Error::Listen {
        address: address.to_owned(),
        source,
    }
}

/// Says once that the node is ready, and until then what is missing. Never returns.
async fn announce(node: &Node, name: &str, address: &str) -> std::convert::Infallible {
    while let Err(error) = node.wait_ready(PROGRESS_INTERVAL).await {
        tracing::info!(node = %name, %error, "waiting");
        tell_supervisor(&[NotifyState::Status(&format!("waiting: {error}"))]);
    }
    tracing::info!(node = %name, %address, "ready");
    let status = format!("serving at {address}");
    tell_supervisor(&[NotifyState::Ready, NotifyState::Status(&status)]);
    std::future::pending().await
}

/// What systemd, or whoever else set `NOTIFY_SOCKET`, is to know. Without one nothing happens.
fn tell_supervisor(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// The roles asked for; all of the node's when none are.
fn chosen_roles(node: &NodeSection, asked: Option<&[Role]>) -> Result<Vec<Role>, Error> {
    let Some(asked) = asked else {
        return Ok(node.roles.clone());
    };
    match asked.iter().find(|role| !node.has(**role)) {
        None => Ok(asked.to_vec()),
        Some(role) => Err(Error::Usage(format!(
            "the configuration does not give {} the role {role} (it has {}): the others would not call it; add it there",
            node.name,
            names(&node.roles)
        ))),
    }
}

fn names(roles: &[Role]) -> String {
    role_names(roles).join(",")
}

fn role_names(roles: &[Role]) -> Vec<&'static str> {
    roles.iter().map(|role| role.name()).collect()
}

/// One process per directory. A journal node's must exist already; a storage node's is created.
fn lock_directory(node: &NodeSection) -> Result<Option<DirectoryLock>, Error> {
    let Some(dir) = node
        .data_dir
        .as_ref()
        .filter(|_| node.roles.iter().any(|role| role.keeps_files()))
    else {
        return Ok(None);
    };
    if !dir.exists() && node.has(Role::Journal) {
        return Err(Error::Usage(format!(
            "{}: {} does not exist: run `meridian init`, or mount the right disk",
            node.name,
            dir.display()
        )));
    }
    init::create_dir(dir)?;
    DirectoryLock::acquire(dir).map(Some)
}

fn dialer(file: &File) -> TcpDialer {
    let addresses = file
        .nodes
        .iter()
        .map(|node| (node.node_name(), node.address.clone()));
    TcpDialer::new(addresses.collect())
}

/// The clock that the configuration names.
pub(crate) fn clock(source: ClockSource, settings: &AgreedSettings) -> SharedClock {
    let ClockSource::Fixed { .. } = source;
    Arc::new(SystemClock::new(source.bound(), settings.max_clock_error()))
}
