//! PostgreSQL: a primary in region `a` and a standby in each other one. A commit is acknowledged when the primary and any one standby
//! have it on disk (`synchronous_commit = on`, `ANY 1`): two of three, as with the others. Reads are the primary's.

mod client;
mod server;

use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::AbortHandle;
use tokio_postgres::{Config, NoTls};

use super::place::{Ways, free_ports};
use super::process::until_ready;
use super::{Client, Kind, Process, Region, Site, System, Wanted};
use crate::error::{Error, Result};
use client::Connection;
use server::Installation;

/// Connections of administrators and standbys, besides those of clients.
const FURTHER_CONNECTIONS: usize = 20;
const TABLE: &str = "CREATE TABLE kv (k bytea PRIMARY KEY, v bytea NOT NULL)";

pub(super) struct Postgres {
    processes: Vec<Process>,
    ways: Ways,
    max_clients: usize,
}

impl Postgres {
    pub(super) async fn start(site: Site) -> Result<Self> {
        let programs: PathBuf = site.peers.postgres()?;
        let addresses = free_ports()?;
        let ways = site.regions.ways(&addresses).await?;
        let installation = Installation::new(programs, site.dir.clone())?;
        let max_clients = site.max_clients * site.regions.of_clients().len();
        let port = |region| addresses.get(&region).map_or(0, std::net::SocketAddr::port);
        let settings = server::settings(max_clients + FURTHER_CONNECTIONS);
        installation.create_primary(&settings).await?;
        let mut processes = vec![installation.serve(Region::A, port(Region::A))?];
        let ask = || async { admin(&ways).await?.ask("SELECT 1").await.map(drop) };
        until_ready(&mut processes, "postgres", ask).await?;
        for region in [Region::B, Region::W] {
            let upstream = ways.address(region, Region::A)?;
            installation
                .copy(region, port(Region::A), upstream.port())
                .await?;
            processes.push(installation.serve(region, port(region))?);
        }
        let started = Self {
            processes: Vec::new(),
            ways,
            max_clients,
        };
        until_ready(&mut processes, "postgres's standbys", || started.replicated()).await?;
        admin(&started.ways).await?.ask(TABLE).await?;
        Ok(Self { processes, ..started })
    }

    /// Makes the standbys synchronous; an error until both of them follow and count.
    async fn replicated(&self) -> Result<()> {
        let admin = admin(&self.ways).await?;
        let following = admin
            .ask("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
            .await?;
        if following != "2" {
            return Err(not_yet(format!("{following} of 2 standbys follow")));
        }
        admin
            .ask("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (b, w)'")
            .await?;
        admin.ask("SELECT pg_reload_conf()").await?;
        let counting = admin
            .ask("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'")
            .await?;
        if counting == "2" {
            Ok(())
        } else {
            Err(not_yet(format!("{counting} of 2 standbys count")))
        }
    }
}

fn not_yet(what: String) -> Error {
    Error::System {
        system: "postgres",
        what,
    }
}

/// A connection, and the task that drives it.
struct Session {
    client: tokio_postgres::Client,
    driver: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// The first column of the first row.
    async fn ask(&self, statement: &str) -> Result<String> {
        use tokio_postgres::SimpleQueryMessage::Row;
        let answer = self.client.simple_query(statement).await;
        let answer = answer.map_err(|error| not_yet(format!("{statement}: {}", client::told(&error))))?;
        let first = answer.iter().find_map(|message| match message {
            Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(first.unwrap_or_default())
    }
}

/// Connects to the primary from that region.
async fn connect(ways: &Ways, from: Region) -> Result<Session> {
    let address = ways.address(from, Region::A)?;
    let mut config = Config::new();
    config.host(address.ip().to_string()).port(address.port());
    config.user(server::USER).dbname("postgres");
    let connected = config.connect(NoTls).await;
    let (client, connection) = connected.map_err(Error::system("postgres", "no connection"))?;
    // Errors of the connection reach whoever waits for an answer.
    let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
    Ok(Session { client, driver })
}

async fn admin(ways: &Ways) -> Result<Session> {
    connect(ways, Region::A).await
}

impl System for Postgres {
    fn kind(&self) -> Kind {
        Kind::Postgres
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// Each client has a connection to itself, as with a pool: PostgreSQL does one thing at a time on one. There are at most as many
    /// as the servers were started for.
    fn connect(&self, wanted: Wanted) -> BoxFuture<'_, Result<Vec<Arc<dyn Client>>>> {
        async move {
            let from = wanted.region.unwrap_or(Region::A);
            let mut connections: Vec<Arc<dyn Client>> = Vec::new();
            for _ in 0..wanted.count.min(self.max_clients) {
                let connection = Connection::prepare(connect(&self.ways, from).await?).await;
                let connection =
                    connection.map_err(Error::system("postgres", "statements are not prepared"))?;
                connections.push(Arc::new(connection));
            }
            Ok(connections)
        }
        .boxed()
    }

    fn settle(&self) -> BoxFuture<'_, Result<()>> {
        async {
            let admin = admin(&self.ways).await?;
            for statement in ["VACUUM ANALYZE kv", "CHECKPOINT"] {
                admin.ask(statement).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        async { drop(self) }.boxed()
    }
}
