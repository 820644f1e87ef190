//! etcd: three members. Reads are linearizable, transactions optimistic: what was read is compared by its revision when it is
//! written.
//!
//! All members must know a member under the same address, so with distances each has one proxy, which tells by the process that
//! connects where that is. The leader is moved to region `a`, as the primary of others is there.

mod client;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};

use super::place::{free_ports, no_port, timer};
use super::process::until_ready;
use super::{Client, Kind, Process, Region, Site, System, Wanted, kv};
use crate::error::{Error, Result};
use crate::proxy::{Delays, Distance, Proxy};
use client::{Shared, proto};

/// etcd's defaults; with long round trips they grow as its documentation asks for: a heartbeat is not shorter than one, an election
/// not shorter than ten.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// See [`HEARTBEAT`].
const ELECTION: Duration = Duration::from_secs(1);
/// The most that etcd recommends; by default a member refuses writes beyond 2 GB, which a long run reaches.
const QUOTA_BYTES: u64 = 8 << 30;

type Far = Arc<Mutex<BTreeMap<u32, Delays>>>;

pub(super) struct Etcd {
    processes: Vec<Process>,
    clients: BTreeMap<Region, SocketAddr>,
    _proxies: Vec<Proxy>,
}

impl Etcd {
    pub(super) async fn start(site: Site) -> Result<Self> {
        let program = site.peers.etcd()?;
        let (clients, peers) = (free_ports()?, free_ports()?);
        let (mut advertised, mut proxies, mut far) =
            (peers.clone(), Vec::new(), BTreeMap::<Region, Far>::new());
        if site.regions.are_apart() {
            let timer = timer()?;
            for (region, address) in &mut advertised {
                let distance = Far::default();
                far.insert(*region, distance.clone());
                let proxy = Proxy::start(*address, Distance::ByProcess(distance), timer.clone()).await;
                let proxy = proxy.map_err(no_port)?;
                *address = proxy.address();
                proxies.push(proxy);
            }
        }
        let url = |address: &SocketAddr| format!("http://{address}");
        let members = advertised
            .iter()
            .map(|(name, address)| format!("{name}={}", url(address)));
        let cluster = members.collect::<Vec<_>>().join(",");
        let round_trip = site.regions.longest_round_trip();
        let millis = |duration: Duration| duration.as_millis().to_string();
        let mut processes = Vec::new();
        for region in Region::ALL {
            let at = |addresses: &BTreeMap<Region, SocketAddr>| {
                addresses.get(&region).map(url).unwrap_or_default()
            };
            let mut command = Command::new(&program);
            command.arg("--data-dir").arg(site.dir.join(region.name()));
            command.args(["--name", region.name(), "--log-level", "warn"]);
            command.args(["--initial-cluster-state", "new", "--initial-cluster", &cluster]);
            command.args([
                "--listen-client-urls",
                &at(&clients),
                "--advertise-client-urls",
                &at(&clients),
            ]);
            command.args(["--listen-peer-urls", &at(&peers)]);
            command.args(["--initial-advertise-peer-urls", &at(&advertised)]);
            command.args(["--heartbeat-interval", &millis(HEARTBEAT.max(round_trip))]);
            command.args(["--election-timeout", &millis(ELECTION.max(round_trip * 10))]);
            command.args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()]);
            let process = Process::start(region.name(), command, &site.dir, Signal::KILL)?;
            for (to, distance) in &far {
                let mut listed = distance.lock().unwrap_or_else(PoisonError::into_inner);
                listed.insert(process.pid(), site.regions.between(region, *to));
            }
            processes.push(process);
        }
        until_ready(&mut processes, "etcd", || move_leader(&clients)).await?;
        Ok(Self {
            processes,
            clients,
            _proxies: proxies,
        })
    }

    fn channel(&self, region: Region) -> Result<Channel> {
        let address = self.clients.get(&region).copied();
        channel(address.ok_or_else(|| Error::Usage(format!("no member in region {region}")))?)
    }
}

/// Connects when it is first used.
fn channel(address: SocketAddr) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(Error::system("etcd", "not an address"))?;
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
}

/// Makes the member in region `a` the leader; an error as long as it is not.
async fn move_leader(clients: &BTreeMap<Region, SocketAddr>) -> Result<()> {
    use proto::maintenance_client::MaintenanceClient;
    let failed = |what| Error::system::<tonic::Status>("etcd", what);
    let mut members = BTreeMap::new();
    for (region, address) in clients {
        let mut client = MaintenanceClient::new(channel(*address)?);
        let status = client.status(proto::StatusRequest {}).await;
        let status = status.map_err(failed("a member does not answer"))?.into_inner();
        let id = status.header.unwrap_or_default().member_id;
        members.insert(*region, (id, status.leader, client));
    }
    let wanted = members.get(&Region::A).map_or(0, |(id, ..)| *id);
    if members.values().all(|(_, leader, _)| *leader == wanted) {
        return Ok(());
    }
    for (id, leader, client) in members.values_mut() {
        if id == leader {
            let request = proto::MoveLeaderRequest { target_id: wanted };
            client
                .move_leader(request)
                .await
                .map_err(failed("the leader does not move"))?;
        }
    }
    Err(Error::System {
        system: "etcd",
        what: "the leader is not in region a yet".to_owned(),
    })
}

impl System for Etcd {
    fn kind(&self) -> Kind {
        Kind::Etcd
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// Clients use the member of their region, or, without distances, all members in turn.
    fn connect(&self, wanted: Wanted) -> BoxFuture<'_, Result<Vec<Arc<dyn Client>>>> {
        async move {
            let places = match wanted.region {
                Some(region) => vec![region],
                None => Region::ALL.to_vec(),
            };
            let fewest = places.len().min(wanted.count);
            let connections = kv::connections(wanted.connected_as).max(fewest);
            let channels: Result<Vec<_>> = places
                .into_iter()
                .cycle()
                .take(connections)
                .map(|region| self.channel(region))
                .collect();
            let channels = channels?;
            let each = channels.iter().cycle().take(wanted.count);
            Ok(each
                .map(|channel| Arc::new(Shared::new(channel.clone())) as Arc<dyn Client>)
                .collect())
        }
        .boxed()
    }

    fn settle(&self) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        async { drop(self) }.boxed()
    }
}
