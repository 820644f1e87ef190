//! A cluster of processes, one for each node.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use meridian::config::Role;
use rustix::process::Signal;
use tempfile::TempDir;

use super::figures::ByRole;
use super::layout::Layout;
use crate::cpu;
use crate::error::{Error, Result};
use crate::system::{self, Kind, Process, System, Wanted, free_addresses, kv, output_of, until_ready};

/// Dropping it kills its processes, and then removes their files.
pub struct Servers {
    processes: BTreeMap<String, Process>,
    program: PathBuf,
    config: PathBuf,
    nodes: Vec<(String, Role)>,
    router: String,
    dir: TempDir,
}

impl Servers {
    /// Creates a cluster in the directory, which is empty, and starts it.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(program: PathBuf, dir: TempDir, layout: Layout) -> Result<Self> {
        let nodes = layout.nodes();
        let addresses = free_addresses(nodes.len())?;
        let router = nodes
            .iter()
            .zip(&addresses)
            .find(|((_, role), _)| *role == Role::Router);
        let mut servers = Self {
            program,
            config: dir.path().join("cluster.toml"),
            dir,
            router: router.map(|(_, address)| address.to_string()).unwrap_or_default(),
            nodes,
            processes: BTreeMap::new(),
        };
        let written = fs::write(&servers.config, layout.configuration(&addresses));
        written.map_err(Error::io("write the configuration", &servers.config))?;
        output_of(command(&servers.program, "init", &servers.config)).await?;
        servers.start_missing()?;
        servers.until_ready().await?;
        Ok(servers)
    }

    /// Starts every node that does not run.
    pub fn start_missing(&mut self) -> Result<()> {
        for (name, _) in &self.nodes {
            if !self.processes.contains_key(name) {
                let mut command = command(&self.program, "serve", &self.config);
                command.args(["--node", name, "--log", "warn"]);
                let process = Process::start(name, command, self.dir.path(), Signal::KILL)?;
                self.processes.insert(name.clone(), process);
            }
        }
        Ok(())
    }

    async fn until_ready(&mut self) -> Result<()> {
        for (name, _) in &self.nodes {
            let ready = || async {
                let mut command = command(&self.program, "health", &self.config);
                command.args(["--node", name]);
                output_of(command).await.map(drop)
            };
            let process = self.processes.get_mut(name).map(std::slice::from_mut);
            until_ready(process.unwrap_or_default(), name, ready).await?;
        }
        Ok(())
    }

    /// `kill -9` for all nodes with one of these roles.
    pub fn kill(&mut self, roles: &[Role]) {
        for (name, _) in self.nodes.iter().filter(|(_, role)| roles.contains(role)) {
            self.processes.remove(name);
        }
    }

    /// Removes the files of nodes with the role, which do not run.
    pub fn lose_disks(&self, of: Role) -> Result<()> {
        for (name, _) in self.nodes.iter().filter(|(_, role)| *role == of) {
            let dir = self.dir.path().join(name);
            fs::remove_dir_all(&dir).map_err(Error::io("remove the directory", &dir))?;
        }
        Ok(())
    }

    /// A client, with so many sessions.
    pub fn client(&self, sessions: usize) -> Result<meridian_client::Client> {
        let builder = meridian_client::Client::builder()
            .endpoint(&self.router)
            .sessions(sessions);
        builder
            .connect_lazy()
            .map_err(Error::system("meridian", "a client cannot be made"))
    }

    /// Processor time until now, in microseconds.
    pub fn used_micros(&self) -> ByRole {
        ByRole::new(|role| cpu::used(&self.pids_of(role)).micros as f64)
    }

    /// Memory now.
    pub fn resident_mb(&self) -> ByRole {
        ByRole::new(|role| cpu::resident_mb(&self.pids_of(role)))
    }

    fn pids_of(&self, of: Role) -> Vec<u32> {
        let nodes = self.nodes.iter().filter(|(_, role)| *role == of);
        let running = nodes.filter_map(|(name, _)| self.processes.get(name));
        running.map(Process::pid).collect()
    }
}

fn command(program: &Path, what: &str, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(what).arg("--config").arg(config);
    command
}

impl System for Servers {
    fn kind(&self) -> Kind {
        Kind::Meridian
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.values().map(Process::pid).collect()
    }

    fn connect(&self, wanted: Wanted) -> BoxFuture<'_, Result<Vec<Arc<dyn system::Client>>>> {
        let client = kv::builder(wanted, 1).endpoint(&self.router).connect_lazy();
        let client = client.map_err(Error::system("meridian", "a client cannot be made"));
        async move { Ok(kv::shared(&[client?], wanted.count)) }.boxed()
    }

    fn settle(&self) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        async { drop(self) }.boxed()
    }
}
