//! Starting, killing, pausing and restarting the processes of one cluster.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use meridian_client::Client;
use tempfile::TempDir;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::layout::{Configured, Layout, Node, RegionLayout, one_region, regions, section};

/// A running cluster. Its processes are killed and its files removed when it is dropped; when the test
/// fails, the files stay and the path is printed.
pub struct Cluster {
    directory: Option<TempDir>,
    config: PathBuf,
    processes: BTreeMap<String, Option<Child>>,
    nodes: Vec<Node>,
    routers: Vec<String>,
    _turn: OwnedMutexGuard<()>,
}

/// One cluster at a time, however many tests run at once: two would fight for the cores.
static TURN: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

const START_TIMEOUT: Duration = Duration::from_secs(60);

impl Cluster {
    /// Creates a new cluster in one region and starts all of its processes.
    pub async fn start(layout: Layout) -> Self {
        Self::start_configured(|directory| one_region(directory, layout)).await
    }

    /// Creates a new cluster of two active regions, `a` and `b`, and a witness `w`, and starts all of its processes.
    pub async fn start_regions(layout: RegionLayout) -> Self {
        Self::start_configured(|directory| regions(directory, layout)).await
    }

    async fn start_configured(configure: impl FnOnce(&Path) -> Configured) -> Self {
        let turn = TURN.clone().lock_owned().await;
        let directory = tempfile::Builder::new()
            .prefix("meridian-e2e-")
            .tempdir()
            .expect("a directory");
        let config = directory.path().join("cluster.toml");
        let Configured { text, nodes } = configure(directory.path());
        fs::write(&config, text).expect("the configuration is written");
        init(&config, &[]);
        let processes = nodes.iter().map(|node| (node.name.clone(), None)).collect();
        let routers = nodes.iter().filter(|node| node.role == "router");
        let routers = routers.map(|node| node.address.clone()).collect();
        let mut cluster = Self {
            directory: Some(directory),
            config,
            processes,
            nodes,
            routers,
            _turn: turn,
        };
        cluster.start_all();
        cluster.wait_until_writable().await;
        cluster
    }

    /// The names of all nodes, in order.
    pub fn nodes(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// The names of the nodes of a region with this role; an empty role means all of them.
    pub fn nodes_of(&self, region: &str, role: &str) -> Vec<String> {
        let found = self
            .nodes
            .iter()
            .filter(|node| node.region == region && (role.is_empty() || node.role == role));
        found.map(|node| node.name.clone()).collect()
    }

    /// A client in a region: it knows the region's routers as near ones and all others as far ones. It connects when it is first
    /// used.
    pub fn client_in(&self, region: &str) -> Client {
        let routers = self.nodes.iter().filter(|node| node.role == "router");
        let builder = routers.fold(Client::builder(), |builder, router| {
            if router.region == region {
                builder.endpoint(&router.address)
            } else {
                builder.far_endpoint(&router.address)
            }
        });
        builder.connect_lazy().expect("there is a router")
    }

    /// Where a node publishes its metrics.
    pub fn metrics_address(&self, name: &str) -> &str {
        let node = self.nodes.iter().find(|node| node.name == name);
        let metrics = node.and_then(|node| node.metrics.as_deref());
        metrics.expect("a node that publishes metrics")
    }

    /// Addresses of the routers.
    pub fn endpoints(&self) -> &[String] {
        &self.routers
    }

    /// The directory of data and logs.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("the cluster is there").path()
    }

    /// A client that knows all routers.
    pub async fn client(&self) -> Client {
        Client::connect(self.routers.clone())
            .await
            .expect("a router answers")
    }

    /// Starts every process that is not running.
    pub fn start_all(&mut self) {
        for name in self.nodes() {
            self.start_node(&name);
        }
    }

    /// Starts a process, if it is not running.
    pub fn start_node(&mut self, name: &str) {
        let slot = self.processes.get_mut(name).expect("a node of this cluster");
        if let Some(child) = slot
            && child.try_wait().expect("the process can be asked").is_none()
        {
            return;
        }
        let log = self
            .directory
            .as_ref()
            .expect("the cluster is there")
            .path()
            .join(format!("{name}.log"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log file");
        let child = Command::new(crate::meridian())
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .args(["--node", name])
            .env("MERIDIAN_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn();
        *slot = Some(child.expect("the server starts"));
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) {
        if let Some(mut child) = self.processes.get_mut(name).and_then(Option::take) {
            child.kill().expect("the process can be killed");
            child.wait().expect("the process ends");
        }
    }

    /// `kill -9` of every process, all at once.
    pub fn kill_all(&mut self) {
        self.kill_at_once(&self.nodes());
    }

    /// `kill -9` of some processes, all at once.
    pub fn kill_at_once(&mut self, names: &[String]) {
        for name in names {
            if let Some(child) = self.processes.get_mut(name).and_then(Option::as_mut) {
                child.kill().expect("the process can be killed");
            }
        }
        for name in names {
            self.kill(name);
        }
    }

    /// A journal node that does not run loses its directory, and gets a new, empty disk.
    pub fn replace_lost_disk(&self, name: &str) {
        fs::remove_dir_all(self.directory().join(name)).expect("the directory is removed");
        init(&self.config, &["--replace-lost-disk", name]);
    }

    /// SIGSTOP: the process keeps its connections and says nothing.
    pub fn pause(&self, name: &str) {
        self.signal(name, "-STOP");
    }

    /// SIGCONT.
    pub fn resume(&self, name: &str) {
        self.signal(name, "-CONT");
    }

    /// SIGTERM, and the exit code.
    pub async fn stop(&mut self, name: &str) -> Option<i32> {
        self.signal(name, "-TERM");
        let mut child = self
            .processes
            .get_mut(name)
            .and_then(Option::take)
            .expect("the process runs");
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = child.try_wait().expect("the process can be asked") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "{name} does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn signal(&self, name: &str, signal: &str) {
        let child = self
            .processes
            .get(name)
            .and_then(Option::as_ref)
            .expect("the process runs");
        let status = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Writes a further node into the configuration. It can be started; those that run go by what they have read.
    pub fn add_node(&mut self, name: &str, region: &str, role: &'static str) {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let node = Node {
            name: name.to_owned(),
            region: region.to_owned(),
            role,
            address: socket.local_addr().expect("its address").to_string(),
            metrics: None,
        };
        let text = fs::read_to_string(&self.config).expect("the configuration");
        let text = text + &section(self.directory(), &node);
        fs::write(&self.config, text).expect("the configuration is written");
        self.processes.insert(name.to_owned(), None);
        self.nodes.push(node);
    }

    /// Takes a node out of the configuration. It runs on until it is stopped.
    pub fn remove_node(&mut self, name: &str) {
        let text = fs::read_to_string(&self.config).expect("the configuration");
        let is_other = |part: &&str| !part.contains(&format!("name = \"{name}\""));
        let parts: Vec<_> = text.split("[[node]]").filter(is_other).collect();
        fs::write(&self.config, parts.join("[[node]]")).expect("the configuration is written");
        self.nodes.retain(|node| node.name != name);
    }

    /// Stops a node, starts it again, and returns once it is ready.
    ///
    /// # Panics
    /// When it does not stop cleanly.
    pub async fn restart(&mut self, name: &str) {
        let code = self.stop(name).await;
        assert_eq!(code, Some(0), "{name} does not stop cleanly");
        self.start_node(name);
        self.wait_until_ready(name).await;
    }

    /// Runs the shell with these arguments at a region's router, and answers what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn kv_cli(&self, region: &str, args: &[&str]) -> String {
        let routers = self.nodes.iter().filter(|node| node.role == "router");
        let router = routers.rev().find(|node| node.region == region);
        let mut command = Command::new(crate::kv_cli());
        command
            .args(["--endpoint", &router.expect("a router").address])
            .args(args);
        let output = command.output().expect("kv-cli runs");
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kv-cli {args:?}: {why}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The path of the configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Returns once the node says that it is ready: what an operator waits for before the next step.
    pub async fn wait_until_ready(&self, name: &str) {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut health = Command::new(crate::meridian());
        health.arg("health").arg("--config").arg(&self.config);
        health.args(["--node", name]).stderr(Stdio::null());
        while !health.status().expect("meridian health runs").success() {
            assert!(Instant::now() < deadline, "{name} does not become ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns once a transaction commits.
    pub async fn wait_until_writable(&self) {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let attempt = async {
                Client::connect(self.routers.clone())
                    .await?
                    .put("e2e/started", "yes")
                    .await
            };
            match tokio::time::timeout(Duration::from_secs(10), attempt).await {
                Ok(Ok(_)) => return,
                other => assert!(Instant::now() < deadline, "the cluster does not start: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn init(config: &Path, args: &[&str]) {
    let mut command = Command::new(crate::meridian());
    let init = command
        .arg("init")
        .arg("--config")
        .arg(config)
        .args(args)
        .output();
    let init = init.expect("meridian init runs");
    let why = String::from_utf8_lossy(&init.stderr);
    assert!(init.status.success(), "init failed: {why}");
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for mut child in self.processes.values_mut().filter_map(Option::take) {
            // A paused process is killed as well; one that has ended already is what we want.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!(
                "the cluster's files and logs stay in {}",
                directory.keep().display()
            );
        }
    }
}
