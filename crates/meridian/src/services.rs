//! Introduces the services to each other: which role is started with what.

use std::sync::Arc;

use meridian_journal::files::RealFiles;
use meridian_query::StorageNode;
use meridian_rpc::owner::Owners;
use meridian_rpc::{CommittedWatch, Env, ServiceFailure, Started};
use meridian_types::{NodeName, RangeMap};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Role;
use crate::error::Error;
use crate::init;
use crate::node::NodeStart;

/// What the services of a node have in common.
pub(crate) struct Common {
    pub(crate) env: Env,
    pub(crate) owners: Owners,
    pub(crate) map: watch::Receiver<Arc<RangeMap>>,
    /// What the journal has committed, followed at the nearest journal node.
    pub(crate) committed: CommittedWatch,
}

/// Starts the service of one role.
pub(crate) async fn start(
    role: Role,
    node: &NodeStart<'_>,
    common: &Common,
    shutdown: CancellationToken,
) -> Result<Started, Error> {
    let env = &common.env;
    match role {
        Role::Journal => journal(node, env, shutdown).await,
        Role::Adjudicator => adjudicator(node, common, shutdown).await,
        Role::Storage => storage(node, env, common.owners.clone(), shutdown).await,
        Role::Query => query(node, common, shutdown).await,
        Role::Router => router(node, common, shutdown).await,
    }
}

async fn journal(node: &NodeStart<'_>, env: &Env, shutdown: CancellationToken) -> Result<Started, Error> {
    let identity = init::load_identity(node.node, node.cluster)?;
    let dir = init::service_dir(node.node, Role::Journal).unwrap_or_default();
    let files = RealFiles::new(&dir).map_err(|source| Error::Io {
        what: "open the journal's directory",
        path: dir,
        source,
    })?;
    let mut config = node.node.settings.journal(&node.file.cluster.settings);
    config.storage_nodes = node.file.with_role(Role::Storage);
    let replicas = node.file.with_role(Role::Journal);
    let started = meridian_journal::start(config, env.clone(), identity, replicas, Arc::new(files), shutdown);
    Ok(started.await.map_err(ServiceFailure::from)?)
}

async fn adjudicator(
    node: &NodeStart<'_>,
    common: &Common,
    shutdown: CancellationToken,
) -> Result<Started, Error> {
    let config = node.node.settings.adjudicator(&node.file.cluster.settings);
    let journals = nearest(node, Role::Journal);
    let (env, map, committed) = (common.env.clone(), common.map.clone(), common.committed.clone());
    Ok(meridian_adjudicator::start(config, env, map, journals, committed, shutdown).await?)
}

async fn storage(
    node: &NodeStart<'_>,
    env: &Env,
    owners: Owners,
    shutdown: CancellationToken,
) -> Result<Started, Error> {
    let dir = init::service_dir(node.node, Role::Storage).unwrap_or_default();
    let config = meridian_storage::Config {
        cluster: Some(node.cluster),
        keys: node.node.storage_keys.range().unwrap_or_default(),
        peers: storage_peers(node),
        ..node.node.settings.storage(&node.file.cluster.settings, dir)
    };
    let journals = nearest(node, Role::Journal);
    Ok(meridian_storage::start(config, env.clone(), owners, journals, shutdown).await?)
}

async fn query(node: &NodeStart<'_>, common: &Common, shutdown: CancellationToken) -> Result<Started, Error> {
    let config = node.node.settings.query.clone();
    let storage = in_region(node, Role::Storage).into_iter();
    let storage = storage.map(|name| storage_node(node, name)).collect();
    let (env, owners, committed) = (
        common.env.clone(),
        common.owners.clone(),
        common.committed.clone(),
    );
    Ok(meridian_query::start(config, env, owners, committed, storage, shutdown).await?)
}

/// The other storage nodes, of all regions, the nearest first.
fn storage_peers(node: &NodeStart<'_>) -> Vec<meridian_storage::Peer> {
    let own = node.node.node_name();
    let others = nearest(node, Role::Storage)
        .into_iter()
        .filter(|name| *name != own);
    let others = others.map(|name| storage_node(node, name));
    others
        .map(|StorageNode { name, keys }| meridian_storage::Peer { name, keys })
        .collect()
}

/// With the keys that it is configured to hold.
fn storage_node(node: &NodeStart<'_>, name: NodeName) -> StorageNode {
    let section = node.file.node(&name.0).ok();
    let keys = section.and_then(|section| section.storage_keys.range());
    StorageNode {
        name,
        keys: keys.unwrap_or_default(),
    }
}

/// Follows what the journal commits, if one of the node's roles waits for records.
pub(crate) fn follow_committed(
    node: &NodeStart<'_>,
    env: &Env,
    shutdown: CancellationToken,
) -> CommittedWatch {
    if !node.roles.contains(&Role::Query) && !node.roles.contains(&Role::Adjudicator) {
        return CommittedWatch::default();
    }
    CommittedWatch::start(env, nearest(node, Role::Journal), shutdown)
}

async fn router(
    node: &NodeStart<'_>,
    common: &Common,
    shutdown: CancellationToken,
) -> Result<Started, Error> {
    let config = node.node.settings.router.clone();
    let queries = in_region(node, Role::Query);
    let mut env = common.env.clone();
    if queries.contains(&env.node) {
        // A router refuses to forward to its own port, where it would meet itself. `front` keeps the two apart,
        // so here the query processor behind it is another node as far as the router is concerned.
        env.node = NodeName(format!("{}.router", env.node));
    }
    let nodes = node.file.nodes.iter().map(|node| meridian_router::NodeInfo {
        name: node.node_name(),
        region: node.region.clone(),
        address: node.address.clone(),
        roles: node.roles.iter().map(|role| role.name().to_owned()).collect(),
    });
    Ok(meridian_router::start(
        config,
        env,
        queries,
        nodes.collect(),
        common.map.clone(),
        shutdown,
    )
    .await?)
}

/// The nodes with the role, those of the own region first.
fn nearest(node: &NodeStart<'_>, role: Role) -> Vec<NodeName> {
    node.file.nearest(role, node.node)
}

/// The nodes with the role in the own region.
fn in_region(node: &NodeStart<'_>, role: Role) -> Vec<NodeName> {
    let is_near = |name: &NodeName| {
        let region = &node.node.region;
        node.file
            .nodes
            .iter()
            .any(|other| other.name == name.0 && other.region == *region)
    };
    nearest(node, role).into_iter().filter(is_near).collect()
}
