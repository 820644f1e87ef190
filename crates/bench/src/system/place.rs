//! Regions: where nodes and clients are, and how far apart.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use meridian::embedded::{Delay, Timer};

use crate::error::{Error, Result};
use crate::proxy::{Delays, Distance, Proxy};

/// A region, or a zone where there are no distances. Each has one node of each system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// Active; a leader or primary is here.
    A,
    /// Active.
    B,
    /// Without clients: the third vote.
    W,
}

impl Region {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::W];
    /// Those with clients.
    pub const ACTIVE: [Self; 2] = [Self::A, Self::B];

    /// Its name, as in `--delay`.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::W => "w",
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far the regions are apart.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    /// As given; empty when there are no distances.
    given: Vec<Delay>,
    /// From one region to another one.
    delays: BTreeMap<(Region, Region), Duration>,
}

impl Regions {
    /// Distances between three regions; those that are not given are [`meridian::embedded::DEFAULT_DELAY`]. Without any delay given:
    /// zones of one region, with no distances.
    ///
    /// # Errors
    /// There is no such region.
    pub fn new(has_distances: bool, given: Vec<Delay>) -> Result<Self> {
        if !has_distances {
            return Ok(Self::default());
        }
        let by_name = |name: &str| Region::ALL.into_iter().find(|region| region.name() == name);
        let mut delays = BTreeMap::new();
        for from in Region::ALL {
            for to in Region::ALL.into_iter().filter(|to| *to != from) {
                delays.insert((from, to), meridian::embedded::DEFAULT_DELAY);
            }
        }
        for delay in &given {
            for (from, to) in delay.between.directions() {
                let (Some(from_region), Some(to_region)) = (by_name(&from), by_name(&to)) else {
                    return Err(Error::Usage(format!(
                        "there is no link between regions {from:?} and {to:?}: the regions are a, b and w"
                    )));
                };
                delays.insert((from_region, to_region), delay.one_way);
            }
        }
        Ok(Self { given, delays })
    }

    /// Whether there are distances.
    pub fn are_apart(&self) -> bool {
        !self.delays.is_empty()
    }

    /// Where clients are to be measured, each place by itself.
    pub fn of_clients(&self) -> Vec<Option<Region>> {
        if self.are_apart() {
            return Region::ACTIVE.into_iter().map(Some).collect();
        }
        vec![None]
    }

    /// The delays as they were given.
    pub fn given(&self) -> &[Delay] {
        &self.given
    }

    /// The way from one region to another one and back.
    pub fn between(&self, from: Region, to: Region) -> Delays {
        let one_way = |from, to| self.delays.get(&(from, to)).copied().unwrap_or_default();
        Delays {
            there: one_way(from, to),
            back: one_way(to, from),
        }
    }

    /// The longest round trip.
    pub fn longest_round_trip(&self) -> Duration {
        let ways = self.delays.keys().map(|(from, to)| self.between(*from, *to));
        ways.map(|delays| delays.there + delays.back)
            .max()
            .unwrap_or_default()
    }

    /// Where to connect to from each region to reach these nodes, with the proxies that lead there.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn ways(&self, nodes: &BTreeMap<Region, SocketAddr>) -> Result<Ways> {
        let mut ways = Ways::default();
        let timer = timer()?;
        for (to, node) in nodes {
            for from in Region::ALL {
                let mut address = *node;
                if self.are_apart() && from != *to {
                    let distance = Distance::Fixed(self.between(from, *to));
                    let proxy = Proxy::start(*node, distance, timer.clone()).await;
                    let proxy = proxy.map_err(no_port)?;
                    address = proxy.address();
                    ways.proxies.push(proxy);
                }
                ways.addresses.insert((from, *to), address);
            }
        }
        Ok(ways)
    }
}

/// Where to connect to.
#[derive(Default)]
pub struct Ways {
    addresses: BTreeMap<(Region, Region), SocketAddr>,
    proxies: Vec<Proxy>,
}

impl Ways {
    /// The address at which, from there, that region's node is reached.
    pub fn address(&self, from: Region, to: Region) -> Result<SocketAddr> {
        let address = self.addresses.get(&(from, to)).copied();
        address.ok_or_else(|| Error::Usage(format!("there is no way from {from} to {to}")))
    }
}

/// Starts a thread that keeps time for proxies.
pub fn timer() -> Result<Timer> {
    Timer::start().map_err(|error| Error::Usage(format!("no thread for the delays between regions: {error}")))
}

/// For `map_err` on listening.
pub fn no_port(error: std::io::Error) -> Error {
    Error::Usage(format!("no free port: {error}"))
}

/// A free port of this machine for each region.
pub fn free_ports() -> Result<BTreeMap<Region, SocketAddr>> {
    let addresses = free_addresses(Region::ALL.len())?;
    Ok(Region::ALL.into_iter().zip(addresses).collect())
}

/// So many free ports of this machine. They stay free until they are used, unless somebody else is very quick.
///
/// # Errors
/// There are not so many.
pub fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    // All are held until every one is known, so that none is drawn twice.
    let sockets = (0..count).map(|_| TcpListener::bind("127.0.0.1:0"));
    let sockets: Vec<_> = sockets.collect::<std::io::Result<_>>().map_err(no_port)?;
    let addresses = sockets.iter().map(TcpListener::local_addr);
    addresses.collect::<std::io::Result<_>>().map_err(no_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_those_given_each_way() {
        let given = ["a-b=30ms", "b>a=40ms"].map(|text| text.parse().unwrap());
        let regions = Regions::new(true, given.to_vec()).unwrap();
        let way = regions.between(Region::B, Region::A);
        assert_eq!((way.there.as_millis(), way.back.as_millis()), (40, 30));
        assert_eq!(regions.longest_round_trip(), Duration::from_millis(70));
        assert_eq!(regions.of_clients(), [Some(Region::A), Some(Region::B)]);
        let unknown = "a-c=1ms".parse().unwrap();
        assert!(Regions::new(true, vec![unknown]).is_err());
        assert_eq!(Regions::default().of_clients(), [None]);
    }
}
