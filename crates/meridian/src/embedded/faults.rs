//! What can be done to an embedded cluster: links cut and healed, nodes and regions killed and started again.

use std::sync::Weak;

use meridian_rpc::KvError;
use meridian_rpc::v1::faults_server::{Faults, FaultsServer};
use meridian_rpc::v1::{FaultReport, FaultRequest, LinkState, NodeState};
use tonic::{Request, Response, Status};

use super::links::{Between, Direction};
use super::{Cluster, Inner};
use crate::error::Error;

/// What a fault strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A whole region: its nodes, or all links to and from it.
    Region(String),
    /// The links between two regions.
    Link(Between),
    /// One node.
    Node(String),
    /// Everything.
    Everywhere,
}

impl Cluster {
    /// The place of that name: a region, a node, a link (`a-b`, `a>b`), or everything (empty).
    ///
    /// # Errors
    /// There is none.
    pub fn place(&self, text: &str) -> Result<Place, Error> {
        self.inner.place(text)
    }

    /// Cuts links: what is sent over them does not arrive until they are healed. Clients' links are not affected.
    ///
    /// # Errors
    /// A node has no link of its own.
    pub fn cut(&self, place: &Place) -> Result<(), Error> {
        self.inner.set_links(place, true)
    }

    /// Heals links.
    ///
    /// # Errors
    /// A node has no link of its own.
    pub fn heal(&self, place: &Place) -> Result<(), Error> {
        self.inner.set_links(place, false)
    }

    /// Kills the nodes of the place, all at once; those that do not run are left alone. Unlike with [`Cluster::kill`] nothing
    /// that they still do reaches another region. Returns when they have stopped.
    ///
    /// # Errors
    /// The place is a link.
    pub async fn crash(&self, place: &Place) -> Result<(), Error> {
        self.inner.crash(place).await
    }

    /// Starts the nodes of the place that do not run.
    ///
    /// # Errors
    /// The place is a link, or one does not start.
    pub async fn revive(&self, place: &Place) -> Result<(), Error> {
        self.inner.revive(place).await
    }
}

impl Inner {
    fn place(&self, text: &str) -> Result<Place, Error> {
        let regions = self.file.regions();
        if text.is_empty() {
            return Ok(Place::Everywhere);
        }
        if regions.contains(&text) {
            return Ok(Place::Region(text.to_owned()));
        }
        if self.file.node(text).is_ok() {
            return Ok(Place::Node(text.to_owned()));
        }
        let link = Between::parse(text)
            .filter(|link| regions.contains(&link.from.as_str()) && regions.contains(&link.to.as_str()));
        link.map(Place::Link).ok_or_else(|| {
            let nodes: Vec<&str> = self.file.nodes.iter().map(|node| node.name.as_str()).collect();
            Error::Usage(format!(
                "{text:?} is no region ({}), no link between two of them (a-b both ways, a>b one way) and no node ({})",
                regions.join(", "),
                nodes.join(", ")
            ))
        })
    }

    fn set_links(&self, place: &Place, is_cut: bool) -> Result<(), Error> {
        let is_affected: Box<dyn Fn(&Direction) -> bool> = match place {
            Place::Everywhere => Box::new(|_| true),
            Place::Region(region) => Box::new(move |(from, to)| from == region || to == region),
            Place::Link(between) => {
                let directions = between.directions();
                Box::new(move |direction| directions.contains(direction))
            }
            Place::Node(name) => {
                return Err(Error::Usage(format!(
                    "{name} has no link of its own: cut its region's, or kill it"
                )));
            }
        };
        self.hub.links.set(is_affected, is_cut);
        Ok(())
    }

    /// The names of the nodes of a place.
    fn nodes_of(&self, place: &Place) -> Result<Vec<String>, Error> {
        let is_there = |node: &&crate::config::NodeSection| match place {
            Place::Everywhere => true,
            Place::Region(region) => node.region == *region,
            Place::Node(name) => node.name == *name,
            Place::Link(_) => false,
        };
        match place {
            Place::Link(between) => Err(Error::Usage(format!(
                "a link has no nodes: kill region {} or {}, or cut the link",
                between.from, between.to
            ))),
            _ => {
                let nodes = self.file.nodes.iter().filter(is_there);
                Ok(nodes.map(|node| node.name.clone()).collect())
            }
        }
    }

    async fn crash(&self, place: &Place) -> Result<(), Error> {
        let names = self.nodes_of(place)?;
        for name in &names {
            self.hub.cut_power(&name.as_str().into());
        }
        let stopping: Vec<_> = names.iter().filter_map(|name| self.take(name)).collect();
        for node in &stopping {
            node.abandon();
        }
        futures::future::join_all(stopping.iter().map(|node| node.stop())).await;
        Ok(())
    }

    async fn revive(&self, place: &Place) -> Result<(), Error> {
        for name in self.nodes_of(place)? {
            if self.node(&name).is_none() {
                self.start_again(&name).await?;
            }
        }
        Ok(())
    }

    async fn inject(&self, request: &FaultRequest) -> Result<FaultReport, Error> {
        let place = self.place(&request.target)?;
        match request.action.as_str() {
            "show" | "" => {}
            "cut" if place == Place::Everywhere => {
                return Err(Error::Usage(
                    "cut what? A region, or a link like a-b or a>b".to_owned(),
                ));
            }
            "kill" if place == Place::Everywhere => {
                return Err(Error::Usage("kill what? A region or a node".to_owned()));
            }
            "cut" => self.set_links(&place, true)?,
            "heal" => self.set_links(&place, false)?,
            "kill" => self.crash(&place).await?,
            "restart" => self.revive(&place).await?,
            other => {
                return Err(Error::Usage(format!(
                    "there is no fault {other:?}: show, cut, heal, kill and restart exist"
                )));
            }
        }
        Ok(self.report())
    }

    fn report(&self) -> FaultReport {
        let links = self
            .hub
            .links
            .all()
            .into_iter()
            .map(|((from, to), link)| LinkState {
                from,
                to,
                delay_ns: u64::try_from(link.delay.as_nanos()).unwrap_or(u64::MAX),
                cut: link.is_cut,
            });
        let nodes = self.file.nodes.iter().map(|node| NodeState {
            node: node.name.clone(),
            region: node.region.clone(),
            running: self.node(&node.name).is_some(),
        });
        FaultReport {
            links: links.collect(),
            nodes: nodes.collect(),
        }
    }
}

/// The same over gRPC, for the shell.
pub(super) struct FaultService(pub(super) Weak<Inner>);

impl FaultService {
    pub(super) fn server(cluster: Weak<Inner>) -> FaultsServer<Self> {
        FaultsServer::new(Self(cluster))
    }
}

#[tonic::async_trait]
impl Faults for FaultService {
    async fn inject(&self, request: Request<FaultRequest>) -> Result<Response<FaultReport>, Status> {
        let cluster = self.0.upgrade();
        let cluster = cluster.ok_or_else(|| KvError::unavailable("the cluster is stopping"))?;
        let done = cluster.inject(request.get_ref()).await;
        Ok(Response::new(done.map_err(|error| match error {
            Error::Usage(what) => KvError::invalid(what),
            other => KvError::unavailable(other.to_string()),
        })?))
    }
}
