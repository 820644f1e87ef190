//! How clients reach the cluster.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;

use meridian_client::Client;

use crate::cluster::Shared;
use crate::cluster::wire::SimDialer;
use crate::plan::ClientHost;
use crate::seams::derive;

/// Makes instances of the client library, all with the same endpoints. Each connects when it is first used, and shares nothing with
/// those before.
pub trait Connect {
    /// Another one.
    fn client(&self) -> Result<Client, Box<dyn Error>>;
}

/// Over the simulated network.
pub struct Connector {
    name: String,
    shared: Rc<Shared>,
    dialer: SimDialer,
    host: ClientHost,
    /// How many it made: each draws other transaction ids.
    made: Cell<u64>,
}

impl Connector {
    /// Nothing is connected.
    pub fn new(name: &str, shared: &Rc<Shared>, host: &ClientHost) -> Self {
        Self {
            name: name.to_owned(),
            dialer: shared.dialer(name),
            shared: shared.clone(),
            host: host.clone(),
            made: Cell::default(),
        }
    }
}

impl Connect for Connector {
    fn client(&self) -> Result<Client, Box<dyn Error>> {
        self.made.set(self.made.get() + 1);
        let purpose = format!("client {} {}", self.name, self.made.get());
        let mut builder = Client::builder()
            .seed(derive(self.shared.plan.seed, &purpose))
            .sessions(self.host.sessions)
            .session_lifetime(self.host.session_lifetime)
            .deadline(self.shared.plan.deadline);
        for endpoint in &self.host.endpoints {
            let channel = self.dialer.channel(endpoint);
            let channel = channel.ok_or_else(|| format!("{endpoint} has no address"))?;
            builder = builder.transport(*endpoint, channel);
        }
        Ok(builder.connect_lazy()?)
    }
}
