//! How a client is set up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use meridian_rpc::KvError;
use meridian_types::limits;
use tokio::time::Instant;
use tonic::body::Body;
use tower::{BoxError, Service};

use crate::Client;
use crate::budget::{Random, RetryBudget, Tokens};
use crate::client::Inner;
use crate::error::Result;
use crate::pool::{Pool, Sessions, Targets};
use crate::transport::Target;

/// Sessions live at most this long by default, so that reconnecting is ordinary and load spreads again.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Longer than any burst takes that a person would not notice, and short enough to say no while it is of use.
const DEFAULT_PATIENCE: Duration = Duration::from_millis(500);

/// Sets up a [`Client`].
pub struct Builder {
    near: Vec<Result<Target, KvError>>,
    far: Vec<Result<Target, KvError>>,
    deadline: Duration,
    budget: RetryBudget,
    sessions: usize,
    lifetime: Duration,
    patience: Duration,
    seed: Option<u64>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            near: Vec::new(),
            far: Vec::new(),
            deadline: limits::DEFAULT_DEADLINE,
            budget: RetryBudget::default(),
            sessions: 1,
            lifetime: DEFAULT_LIFETIME,
            patience: DEFAULT_PATIENCE,
            seed: None,
        }
    }
}

impl Builder {
    /// Adds a router's address, `host:port` or `http://host:port`. The first is preferred; the others are
    /// tried in turn when it fails. Those of the client's own region belong here, those of others into
    /// [`Self::far_endpoint`].
    #[must_use]
    pub fn endpoint(mut self, address: impl AsRef<str>) -> Self {
        self.near.push(Target::tcp(address.as_ref()));
        self
    }

    /// Adds a router of another region. It is used only while none of the near ones answers, or while the calls of one that does fail
    /// one after another (its region is cut off); new transactions go back to those as soon as they can.
    #[must_use]
    pub fn far_endpoint(mut self, address: impl AsRef<str>) -> Self {
        self.far.push(Target::tcp(address.as_ref()));
        self
    }

    /// Adds a transport of any kind, for example the services of this process. `name` stands for it in
    /// errors.
    #[must_use]
    pub fn transport<T, B>(mut self, name: impl Into<String>, transport: T) -> Self
    where
        T: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        T::Future: Send + 'static,
        T::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.near.push(Ok(Target::new(name.into(), transport)));
        self
    }

    /// [`Self::transport`] to a router of another region: see [`Self::far_endpoint`].
    #[must_use]
    pub fn far_transport<T, B>(mut self, name: impl Into<String>, transport: T) -> Self
    where
        T: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        T::Future: Send + 'static,
        T::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.far.push(Ok(Target::new(name.into(), transport)));
        self
    }

    /// How long a call may take, or a whole `transact` with its retries. At most `limits::MAX_DEADLINE`.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(limits::MAX_DEADLINE);
        self
    }

    /// How many retries may be spent.
    #[must_use]
    pub fn retry_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// How many session streams to keep open, at least one. One carries hundreds of transactions at a time.
    #[must_use]
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = sessions.max(1);
        self
    }

    /// New transactions get a new session after about this long.
    #[must_use]
    pub fn session_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// How long what begins something (a transaction, or a call that is one) may wait for its turn while the servers have as much of
    /// this client to do as they take, 256 operations of each session; half a second by default. Then it ends with
    /// [`Error::Refused`](crate::Error::Refused), certainly not applied. Time in which servers answer nothing at all does not count: for
    /// that there is the deadline. One as long as the deadline means that nothing is refused before.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Seeds jitter and transaction ids. Only for tests and simulations: two clients with the same seed
    /// draw the same ids.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Starts connecting and returns at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Invalid` when there is no endpoint, or an address is malformed.
    pub fn connect_lazy(self) -> Result<Client> {
        let mut near = self.near.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut far = self.far.into_iter().collect::<Result<Vec<_>, _>>()?;
        if near.is_empty() {
            // All are equally far.
            near = std::mem::take(&mut far);
        }
        if near.is_empty() {
            return Err(KvError::invalid("a client needs at least one endpoint").into());
        }
        let targets = Targets { near, far };
        let random = Random::new(self.seed);
        let sessions = Sessions {
            count: self.sessions,
            lifetime: self.lifetime,
            patience: self.patience,
        };
        Ok(Client {
            inner: Arc::new(Inner {
                pool: Pool::start(targets, sessions, &random),
                random,
                tokens: Tokens::new(self.budget),
                deadline: self.deadline,
            }),
        })
    }

    /// Connects; returns when a session is open or every endpoint has failed once.
    ///
    /// # Errors
    /// `Unavailable` when no endpoint can be reached, `Invalid` when there is none.
    pub async fn connect(self) -> Result<Client> {
        let client = self.connect_lazy()?;
        let deadline = Instant::now() + client.inner.deadline;
        client.inner.pool.connected(deadline).await?;
        Ok(client)
    }
}
