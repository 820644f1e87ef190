//! Starting a journal node: its disk, its log, its writer.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_protocol::events;
use meridian_rpc::guard::{Identity, guarded};
use meridian_rpc::{Env, Listener, ServiceFailure, Started};
use meridian_types::{DiskId, NodeName, StreamId};
use rand::RngCore;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::config::{Config, Writer};
use crate::disk::{self, DiskIdentity};
use crate::error::StartError;
use crate::files::Files;
use crate::journal::{Journal, Parts};
use crate::service::JournalService;
use crate::stream::Stream;
use crate::trimmer::Trimmer;
use crate::wal::format::{Body, Owner, Record};
use crate::wal::{Location, Segments, Wal};
use crate::writer::LogWriter;

/// Starts a journal node on the registered disk `files`, which it locks. `replicas` are all journal nodes of the
/// cluster, this one included. Returns once the log is recovered; `Started.stopped` ends when the node has stopped: with an
/// error when its disk failed.
pub async fn start(
    config: Config,
    env: Env,
    identity: DiskIdentity,
    replicas: Vec<NodeName>,
    files: Arc<dyn Files>,
    shutdown: CancellationToken,
) -> Result<Started, StartError> {
    config.check()?;
    let lock = files.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => StartError::Locked {
            dir: files.describe("."),
        },
        _ => StartError::io("lock", &files.describe("."), error),
    })?;
    let lock: Arc<dyn Send + Sync> = lock.into();
    let (identity, wal, streams) = open(&config, &env, identity, &files)?;
    let owner = owner_of(&identity);
    let parts = Parts {
        config,
        identity,
        replicas,
        clock: env.clock.clone(),
        segments: Segments::new(files.clone()),
        active_segment: wal.active(),
    };
    let journal = Arc::new(Journal::new(parts, streams));
    let writer = LogWriter::new(journal.clone(), wal, lock.clone()).in_world(env.clone());
    let trimmer = Trimmer::new(journal.clone(), files, owner, lock);
    let stopped = tokio::spawn(supervise(journal.clone(), writer, trimmer.run(env), shutdown));
    let service = Arc::new(JournalService::new(journal));
    Ok(Started { service, stopped })
}

/// [`start`], and serves it alone, until `shutdown` is cancelled or the node fails.
pub async fn run(
    config: Config,
    env: Env,
    listener: Listener,
    identity: DiskIdentity,
    replicas: Vec<NodeName>,
    files: Arc<dyn Files>,
    shutdown: CancellationToken,
) -> Result<(), ServiceFailure> {
    let peer = Identity {
        cluster: identity.cluster,
        node: env.node.clone(),
    };
    let serving = shutdown.child_token();
    let started = start(config, env, identity, replicas, files, shutdown).await?;
    let mut routes = RoutesBuilder::default();
    started.service.register(&mut routes);
    let served = tokio::spawn(meridian_rpc::serve(
        listener,
        guarded(routes.routes(), peer),
        serving.clone(),
    ));
    let stopped = started.stopped.await.map_err(|error| failure(error.to_string()));
    serving.cancel();
    match served.await {
        Ok(Ok(())) => stopped?,
        Ok(Err(error)) => Err(failure(format!("cannot serve: {error}"))),
        Err(error) => Err(failure(error.to_string())),
    }
}

type Opened = (DiskIdentity, Wal, BTreeMap<StreamId, Stream>);

/// Opens the disk; one that lost something is begun anew if the configuration says so.
fn open(
    config: &Config,
    env: &Env,
    identity: DiskIdentity,
    files: &Arc<dyn Files>,
) -> Result<Opened, StartError> {
    let lost = match open_registered(config, env, &identity, files) {
        Ok((wal, streams)) => return Ok((identity, wal, streams)),
        Err(error @ (StartError::Lost { .. } | StartError::NotRegistered { .. }))
            if config.replace_lost_disk =>
        {
            error
        }
        Err(StartError::Lost {
            file, offset, what, ..
        }) => {
            return Err(StartError::Lost {
                file,
                offset,
                what,
                disk: Some(identity.disk_id),
            });
        }
        Err(error) => return Err(error),
    };
    let identity = DiskIdentity {
        disk_id: new_disk_id(env),
        rejoining: true,
        ..identity
    };
    tracing::error!(
        node = %env.node, error = %lost, new_disk = %identity.disk_id,
        "the disk is replaced: the log begins empty and is rebuilt from the other replicas"
    );
    disk::replace_in(&**files, &identity)?;
    let (wal, streams) = open_registered(config, env, &identity, files)?;
    Ok((identity, wal, streams))
}

fn open_registered(
    config: &Config,
    env: &Env,
    identity: &DiskIdentity,
    files: &Arc<dyn Files>,
) -> Result<(Wal, BTreeMap<StreamId, Stream>), StartError> {
    let found = disk::load_from(&**files)?;
    if found != *identity || found.node != env.node {
        let describe = |node: &NodeName, disk: &DiskIdentity| {
            format!("disk {} of node {node} in cluster {}", disk.disk_id, disk.cluster)
        };
        return Err(StartError::WrongDisk {
            file: files.describe("IDENTITY"),
            found: describe(&found.node, &found),
            expected: describe(&env.node, identity),
        });
    }
    let owner = owner_of(identity);
    let mut streams = BTreeMap::new();
    let mut each = |record: Record, location| recover(&mut streams, identity, record, location);
    let (wal, recovered) = Wal::open(files.clone(), owner, config.segment_bytes, &mut each)?;
    tracing::info!(
        node = %env.node, disk = %identity.disk_id, records = recovered.records, cut_bytes = recovered.cut_bytes,
        streams = streams.len(), "log recovered"
    );
    let disk = identity.disk_id.0.as_u128();
    tracing::trace!(target: events::TARGET, event = "mounted", disk);
    for (id, stream) in &streams {
        let (promised, last) = (stream.log.promised(), stream.log.last());
        tracing::trace!(
            target: events::TARGET, event = "recovered", stream = id.0, promised = promised.0, epoch = last.epoch.0,
            lsn = last.lsn.0
        );
    }
    Ok((wal, streams))
}

fn owner_of(identity: &DiskIdentity) -> Owner {
    Owner {
        cluster: identity.cluster,
        node: identity.node.clone(),
        disk: identity.disk_id,
    }
}

/// One durable record, in the order in which they were written.
fn recover(
    streams: &mut BTreeMap<StreamId, Stream>,
    identity: &DiskIdentity,
    record: Record,
    location: Location,
) -> Result<(), String> {
    let unseen = || Stream::new(Journal::unseen(identity));
    let Some(id) = record.stream() else {
        return Err("a record that ends a base file stands in the middle of the log".to_owned());
    };
    let stream = streams.entry(id).or_insert_with(unseen);
    match record.body {
        Body::Entry(_, entry) => stream.recover(&entry, location)?,
        Body::Promise(_, epoch, owner) => {
            stream.log.on_recovered_promise(epoch, owner.clone());
            stream.durable.on_promise(epoch, owner.clone());
            stream.owner.name = owner;
        }
        Body::Rejoined(_) => {
            stream.log.on_recovered_rejoined();
            stream.durable.is_rebuilt = true;
        }
        Body::Base(_, base) => stream.recover_base(base, location),
        Body::End(_) => {}
    }
    Ok(())
}

fn new_disk_id(env: &Env) -> DiskId {
    // With the time in it, so that not even a node that begins with the same randomness again takes an old one.
    let mut random = [0; 10];
    env.rng().fill_bytes(&mut random);
    let millis = env.clock.now().latest.0 / 1_000_000;
    DiskId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

/// Runs the writer, and trims, until shutdown or failure.
async fn supervise(
    journal: Arc<Journal>,
    writer: LogWriter,
    trimming: impl Future<Output = ()>,
    shutdown: CancellationToken,
) -> Result<(), ServiceFailure> {
    // Trimming ends when the node stops; it must not go on when another one may have the directory.
    let ended = async { tokio::join!(write(&journal, writer), trimming).0 };
    tokio::pin!(ended);
    let result = tokio::select! {
        biased;
        result = &mut ended => result,
        () = shutdown.cancelled() => {
            journal.close();
            ended.await
        }
    };
    result.map_err(failure)
}

async fn write(journal: &Arc<Journal>, writer: LogWriter) -> Result<(), String> {
    match journal.config().writer {
        Writer::Task => writer.run_as_task().await,
        Writer::Thread => {
            let (sender, receiver) = oneshot::channel();
            let body = move || drop(sender.send(writer.run_on_thread()));
            std::thread::Builder::new()
                .name("journal-writer".to_owned())
                .spawn(body)
                .map_err(|error| format!("cannot start the log's thread: {error}"))?;
            // A thread that ends without a word panicked.
            let ended = receiver
                .await
                .unwrap_or_else(|_| Err("the log's thread ended unexpectedly".to_owned()));
            if let Err(what) = &ended {
                journal.fail(what);
            }
            ended
        }
    }
}

fn failure(what: String) -> ServiceFailure {
    ServiceFailure {
        role: crate::ROLE,
        what,
    }
}
