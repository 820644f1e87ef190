//! Meridian in three server processes: two active nodes with all parts and a witness with a journal node, configured as
//! `deploy/regions/cluster.toml`. All keys are in one range, or divided so that each active node owns half of what every workload uses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::Signal;

use super::place::{Ways, free_ports};
use super::process::until_ready;
use super::{Client, Kind, Process, Region, Regions, Site, System, Wanted, kv, output_of};
use crate::args::SetupArgs;
use crate::error::{Error, Result};
use crate::workload::{bank, keys};

pub(super) struct Servers {
    processes: Vec<Process>,
    ways: Ways,
}

impl Servers {
    pub(super) async fn start(site: Site) -> Result<Self> {
        let program = site.peers.meridian()?;
        let addresses = free_ports()?;
        let ways = site.regions.ways(&addresses).await?;
        let configs = configure(&site, &program, &addresses, &ways).await?;
        let mut processes = Vec::new();
        for (region, config) in &configs {
            let mut command = Command::new(&program);
            command.arg("serve").arg("--config").arg(config);
            command.args(["--node", region.name(), "--log", "warn"]);
            processes.push(Process::start(region.name(), command, &site.dir, Signal::KILL)?);
        }
        for (region, config) in &configs {
            let ready = || async {
                let mut command = Command::new(&program);
                command.arg("health").arg("--config").arg(config);
                output_of(with(command, &["--node", region.name()]))
                    .await
                    .map(drop)
            };
            until_ready(&mut processes, "meridian", ready).await?;
        }
        Ok(Self { processes, ways })
    }

    /// A client that prefers the node of one region, and knows the other one.
    fn client(&self, wanted: Wanted, near: Region, parts: usize) -> Result<meridian_client::Client> {
        let mut builder = kv::builder(wanted, parts).endpoint(self.ways.address(near, near)?.to_string());
        for other in Region::ACTIVE.into_iter().filter(|region| *region != near) {
            let address = self.ways.address(near, other)?.to_string();
            builder = match wanted.region {
                Some(_) => builder.far_endpoint(address),
                // The first is preferred.
                None => builder.endpoint(address),
            };
        }
        builder
            .connect_lazy()
            .map_err(Error::system("meridian", "a client cannot be made"))
    }
}

fn with(mut command: Command, args: &[&str]) -> Command {
    command.args(args);
    command
}

/// Where ranges begin, but the first.
pub(super) fn borders(setup: &SetupArgs) -> &'static [&'static str] {
    match setup.divided {
        true => &[bank::MIDDLE, "user", keys::USERS_MIDDLE],
        false => &[],
    }
}

/// Writes the configuration and has the cluster created; returns each node's file. They differ only in where the others are reached.
async fn configure(
    site: &Site,
    program: &Path,
    addresses: &BTreeMap<Region, SocketAddr>,
    ways: &Ways,
) -> Result<BTreeMap<Region, PathBuf>> {
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(Error::io("write the configuration", path))
    };
    let first = site.dir.join("cluster.toml");
    write(&first, &configuration(&site.regions, &site.setup, addresses))?;
    let mut init = Command::new(program);
    init.arg("init").arg("--config").arg(&first);
    output_of(init).await?;
    let text = std::fs::read_to_string(&first).map_err(Error::io("read the configuration", &first))?;
    let mut files = BTreeMap::new();
    for from in Region::ALL {
        let mut own = text.clone();
        for (to, address) in addresses {
            let reached = ways.address(from, *to)?;
            own = own.replace(&format!("\"{address}\""), &format!("\"{reached}\""));
        }
        let path = site.dir.join(format!("{from}.toml"));
        write(&path, &own)?;
        files.insert(from, path);
    }
    Ok(files)
}

/// What begins so is a setting of the cluster, not of each node.
const AGREED: &str = "cluster.";

/// The settings of the cluster.
fn agreed(regions: &Regions, setup: &SetupArgs) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    if regions.are_apart() {
        // As the embedded cluster does: no read waits for a commit of the other region, and no lease is shorter than four round trips.
        let lease_ms = (regions.longest_round_trip().as_millis() * 4).max(1_000);
        let lead = "{ auto = { floor_ms = 0, ceiling_ms = 250 } }";
        settings.insert("lead".to_owned(), lead.to_owned());
        settings.insert("lease_ms".to_owned(), lease_ms.to_string());
    }
    let given = setup
        .settings
        .iter()
        .filter_map(|setting| setting.strip_prefix(AGREED)?.split_once('='));
    settings.extend(given.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())));
    settings
}

fn configuration(regions: &Regions, setup: &SetupArgs, addresses: &BTreeMap<Region, SocketAddr>) -> String {
    let mut text = "[cluster]\n".to_owned();
    // Writing into a string does not fail.
    for region in Region::ALL {
        let kind = if region == Region::W { "witness" } else { "active" };
        let _ = write!(
            text,
            "[[cluster.region]]\nname = \"{region}\"\nkind = \"{kind}\"\n"
        );
    }
    let starts = std::iter::once("").chain(borders(setup).iter().copied());
    for (start, region) in starts.zip(Region::ACTIVE.into_iter().cycle()) {
        let _ = write!(
            text,
            "[[cluster.range]]\nstart = \"{start}\"\nregion = \"{region}\"\n"
        );
    }
    text.push_str("[cluster.settings]\n");
    for (name, value) in agreed(regions, setup) {
        let _ = writeln!(text, "{name} = {value}");
    }
    let engine = setup.engine.as_ref();
    let engine = engine.map(|engine| format!("settings.storage.engine = \"{engine}\"\n"));
    let own = setup
        .settings
        .iter()
        .filter(|setting| !setting.starts_with(AGREED));
    let settings = own.map(|setting| format!("settings.{setting}\n"));
    let settings: String = engine.into_iter().chain(settings).collect();
    for (region, address) in addresses {
        let roles = match region {
            Region::W => r#""journal""#,
            Region::A | Region::B => r#""journal", "adjudicator", "storage", "query", "router""#,
        };
        // All read the clock of the same machine.
        let _ = write!(
            text,
            "[[node]]\nname = \"{region}\"\nregion = \"{region}\"\naddress = \"{address}\"\nroles = [{roles}]\n\
             data_dir = \"{region}\"\nclock = {{ source = \"fixed\", bound_us = 50 }}\n{settings}"
        );
    }
    text
}

impl System for Servers {
    fn kind(&self) -> Kind {
        Kind::Meridian
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    fn entry(&self) -> Option<SocketAddr> {
        self.ways.address(Region::A, Region::A).ok()
    }

    fn connect(&self, wanted: Wanted) -> BoxFuture<'_, Result<Vec<Arc<dyn Client>>>> {
        async move {
            let places = match wanted.region {
                Some(region) => vec![region],
                None => Region::ACTIVE.to_vec(),
            };
            let parts = places.len();
            let clients: Result<Vec<_>> = places
                .into_iter()
                .map(|near| self.client(wanted, near, parts))
                .collect();
            Ok(kv::shared(&clients?, wanted.count))
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

#[cfg(test)]
mod tests {
    use meridian::config::File;

    use super::*;

    #[test]
    fn the_configuration_is_one_that_meridian_takes() {
        let addresses = free_ports().unwrap();
        let divided = SetupArgs {
            divided: true,
            engine: Some("sled".to_owned()),
            settings: vec![
                "query.page_bytes = 4096".to_owned(),
                "cluster.lease_ms = 2000".to_owned(),
            ],
        };
        for (regions, setup) in [
            (Regions::default(), SetupArgs::default()),
            (Regions::new(true, Vec::new()).unwrap(), divided),
        ] {
            let text = configuration(&regions, &setup, &addresses);
            let file = File::parse(&text).unwrap();
            let problems = meridian::config::check::check(&file, &text);
            let errors: Vec<_> = problems.iter().filter(|problem| problem.is_error).collect();
            assert!(errors.is_empty(), "{errors:?}\n{text}");
            assert_eq!(file.cluster.ranges.len(), 1 + borders(&setup).len());
        }
    }
}
