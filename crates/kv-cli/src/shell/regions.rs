//! In which region the shell reads and writes.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_client::{Client, KvError};

use crate::failure::{Code, Failure};

/// How long a region may take to answer before the shell goes there all the same.
const PATIENCE: Duration = Duration::from_secs(3);

/// The regions that the shell can go to.
#[derive(Default)]
pub struct Regions {
    /// Clients that are ready. An embedded cluster has one for each region, others get them as they are asked for.
    clients: BTreeMap<String, Client>,
    /// Where one can be is known; else the cluster is asked.
    is_complete: bool,
    /// The one that was chosen.
    chosen: Option<String>,
    /// Addresses to use while the region's own do not answer, and how long a call may take.
    elsewhere: Vec<String>,
    deadline: Option<Duration>,
}

impl Regions {
    /// The regions of an embedded cluster, each with its client; the shell begins in the given one.
    pub fn embedded(clients: BTreeMap<String, Client>, first: &str) -> Self {
        Self {
            clients,
            is_complete: true,
            chosen: Some(first.to_owned()),
            ..Self::default()
        }
    }

    /// The regions of a cluster that was reached at these addresses.
    pub fn remote(endpoints: &[String], deadline: Duration) -> Self {
        Self {
            elsewhere: endpoints
                .iter()
                .map(|address| address.trim().to_owned())
                .collect(),
            deadline: Some(deadline),
            ..Self::default()
        }
    }

    /// The region for the prompt, given the one that serves.
    pub(super) fn describe(&self, serving: Option<String>) -> String {
        match (&self.chosen, serving) {
            (None, Some(serving)) => serving,
            (Some(chosen), Some(serving)) if *chosen == serving => serving,
            (Some(chosen), Some(serving)) => format!("{chosen} via {serving}"),
            (Some(chosen), None) => format!("{chosen} (not connected)"),
            (None, None) => "(not connected)".to_owned(),
        }
    }

    /// Where one can be, one row each.
    pub(super) async fn names(&self, client: &Client) -> Result<Vec<Vec<String>>, Failure> {
        if self.is_complete {
            return Ok(self.clients.keys().map(|name| vec![name.clone()]).collect());
        }
        let routers = routers(client).await?;
        Ok(routers.into_keys().map(|name| vec![name]).collect())
    }

    /// The client for a region.
    pub(super) async fn go(&mut self, region: &str, client: &Client) -> Result<Client, Failure> {
        let client = match self.clients.get(region) {
            Some(client) => client.clone(),
            None if self.is_complete => return Err(unknown(region, self.clients.keys())),
            None => {
                let found = self.connect(region, client).await?;
                self.clients.insert(region.to_owned(), found.clone());
                found
            }
        };
        // The prompt shows who serves, which is known once it is connected. Nobody answering is no reason to stay.
        let _ = tokio::time::timeout(PATIENCE, client.get("\0")).await;
        self.chosen = Some(region.to_owned());
        Ok(client)
    }

    /// A client in each region.
    pub(super) async fn clients(&mut self, client: &Client) -> Result<BTreeMap<String, Client>, Failure> {
        if !self.is_complete {
            for region in routers(client).await?.into_keys() {
                if !self.clients.contains_key(&region) {
                    let found = self.connect(&region, client).await?;
                    self.clients.insert(region, found);
                }
            }
        }
        Ok(self.clients.clone())
    }

    async fn connect(&self, region: &str, client: &Client) -> Result<Client, Failure> {
        let routers = routers(client).await?;
        let near = routers
            .get(region)
            .ok_or_else(|| unknown(region, routers.keys()))?;
        let mut builder = Client::builder();
        if let Some(deadline) = self.deadline {
            builder = builder.deadline(deadline);
        }
        builder = near
            .iter()
            .fold(builder, |builder, address| builder.endpoint(address));
        let far = self.elsewhere.iter().filter(|address| !near.contains(address));
        builder = far.fold(builder, |builder, address| builder.far_endpoint(address));
        Ok(builder.connect_lazy()?)
    }
}

/// The addresses of the routers by region, as the cluster knows them.
async fn routers(client: &Client) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let status = client.cluster_status().await?;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in status.nodes {
        if node.services.iter().any(|service| service.role == "router") {
            found.entry(node.region).or_default().push(node.address);
        }
    }
    if found.is_empty() {
        return Err(KvError::unavailable("no router says where it is").into());
    }
    Ok(found)
}

fn unknown<'a>(region: &str, known: impl Iterator<Item = &'a String>) -> Failure {
    let known: Vec<&str> = known.map(String::as_str).collect();
    Failure::new(
        Code::Failed,
        format!(
            "there is no router in region {region:?}; there are some in {}",
            known.join(", ")
        ),
    )
}
