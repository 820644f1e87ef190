//! A client of PostgreSQL: prepared statements, sent one behind the other without waiting where nothing depends on the answer.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Statement};

use super::super::backoff::Backoff;
use super::super::{Change, Row, unexpected};
use super::Session;
use crate::load::Failure;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";
/// Rows that are loaded at once.
const BATCH: usize = 1_000;

/// A connection. It does one thing at a time, so it belongs to one client.
pub struct Connection {
    session: Session,
    get: Statement,
    put: Statement,
    set: Statement,
    scan: Statement,
    load: Statement,
}

/// What became of one run of a transaction.
enum Run {
    Committed,
    Conflict,
    Impossible(Failure),
}

impl Connection {
    /// Prepares the statements.
    pub(super) async fn prepare(session: Session) -> Result<Self, Error> {
        let prepare = |text| session.client.prepare(text);
        let put = "INSERT INTO kv (k, v) VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v";
        let load = "INSERT INTO kv (k, v) SELECT * FROM unnest($1::bytea[], $2::bytea[]) ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v";
        let scan = "SELECT k, v FROM kv WHERE k >= $1 AND k < $2 ORDER BY k LIMIT $3";
        let (get, put, set, scan, load) = futures::try_join!(
            prepare("SELECT v FROM kv WHERE k = $1"),
            prepare(put),
            prepare("UPDATE kv SET v = $2 WHERE k = $1"),
            prepare(scan),
            prepare(load),
        )?;
        Ok(Self {
            session,
            get,
            put,
            set,
            scan,
            load,
        })
    }

    async fn read(&self, key: &Bytes) -> Result<Option<Bytes>, Error> {
        let row = self.session.client.query_opt(&self.get, &[&key.as_ref()]).await?;
        row.map(|row| Ok(Bytes::copy_from_slice(row.try_get(0)?)))
            .transpose()
    }

    /// The transaction, once.
    async fn run(&self, keys: &[Bytes], change: &Change) -> Result<Run, Error> {
        let client = &self.session.client;
        let mut before = Vec::with_capacity(keys.len());
        let mut begun = Some(client.batch_execute(BEGIN));
        for key in keys {
            // The first read follows BEGIN at once: each future is sent when it is first polled.
            let value = match begun.take() {
                Some(begin) => futures::try_join!(begin, self.read(key))?.1,
                None => self.read(key).await?,
            };
            before.push(value);
        }
        let Some(after) = change(&before) else {
            client.batch_execute("ROLLBACK").await?;
            return Ok(Run::Impossible(unexpected(&before)));
        };
        // In the order of the keys, so that two transactions do not wait for each other.
        let mut writes: Vec<(&Bytes, Bytes)> = keys.iter().zip(after).collect();
        writes.sort();
        let set = async |key: &Bytes, value: &Bytes| {
            let values: [&(dyn ToSql + Sync); 2] = [&key.as_ref(), &value.as_ref()];
            client.execute(&self.set, &values).await
        };
        let sets = futures::future::join_all(writes.iter().map(|(key, value)| set(key, value)));
        // Behind a write that failed, COMMIT rolls back.
        let (sets, committed) = futures::join!(sets, client.batch_execute("COMMIT"));
        for set in sets {
            if let Err(error) = set {
                return conflict_or(error);
            }
        }
        match committed {
            Ok(()) => Ok(Run::Committed),
            Err(error) => conflict_or(error),
        }
    }
}

/// Serialization failures and deadlocks say that nothing happened and that it is worth another try.
fn conflict_or(error: Error) -> Result<Run, Error> {
    let retryable = [
        &SqlState::T_R_SERIALIZATION_FAILURE,
        &SqlState::T_R_DEADLOCK_DETECTED,
    ];
    match error.code() {
        Some(code) if retryable.contains(&code) => Ok(Run::Conflict),
        _ => Err(error),
    }
}

/// The server's words, where it said anything.
pub(super) fn told(error: &Error) -> String {
    match error.as_db_error() {
        Some(said) => said.to_string(),
        None => error.to_string(),
    }
}

fn failure(error: Error) -> Failure {
    Failure::Failed(told(&error))
}

impl super::super::Client for Connection {
    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, Failure>> {
        async move { self.read(&key).await.map_err(failure) }.boxed()
    }

    fn put(&self, key: Bytes, value: Bytes) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            let values: [&(dyn ToSql + Sync); 2] = [&key.as_ref(), &value.as_ref()];
            let written = self.session.client.execute(&self.put, &values).await;
            written.map_err(failure)?;
            Ok(())
        }
        .boxed()
    }

    fn scan(&self, from: Bytes, to: Bytes, limit: u32) -> BoxFuture<'_, Result<Vec<Row>, Failure>> {
        async move {
            let limit = i64::from(limit);
            let values: [&(dyn ToSql + Sync); 3] = [&from.as_ref(), &to.as_ref(), &limit];
            let rows = self
                .session
                .client
                .query(&self.scan, &values)
                .await
                .map_err(failure)?;
            let bytes = |row: &tokio_postgres::Row, column: usize| -> Result<Bytes, Error> {
                Ok(Bytes::copy_from_slice(row.try_get(column)?))
            };
            let pairs = rows.iter().map(|row| Ok((bytes(row, 0)?, bytes(row, 1)?)));
            pairs.collect::<Result<_, Error>>().map_err(failure)
        }
        .boxed()
    }

    fn update<'a>(&'a self, keys: &'a [Bytes], change: &'a Change) -> BoxFuture<'a, Result<u64, Failure>> {
        async move {
            let mut backoff = Backoff::new();
            loop {
                let run = self.run(keys, change).await;
                if run.is_err() {
                    // Or else the next one would find itself within this one.
                    let _ = self.session.client.batch_execute("ROLLBACK").await;
                }
                let run = run.map_err(failure)?;
                match run {
                    Run::Committed => return Ok(backoff.aborts()),
                    Run::Impossible(failure) => return Err(failure),
                    Run::Conflict => backoff.again().await?,
                }
            }
        }
        .boxed()
    }

    fn load(&self, rows: Vec<Row>) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            for batch in rows.chunks(BATCH) {
                let keys: Vec<&[u8]> = batch.iter().map(|(key, _)| key.as_ref()).collect();
                let values: Vec<&[u8]> = batch.iter().map(|(_, value)| value.as_ref()).collect();
                let loaded = self.session.client.execute(&self.load, &[&keys, &values]).await;
                loaded.map_err(failure)?;
            }
            Ok(())
        }
        .boxed()
    }
}
