//! Starting, killing, pausing and restarting the processes of one cluster.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use meridian_client::Client;
use tempfile::TempDir;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// How many nodes of each role. Each is a process of its own.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Journal nodes.
    pub journals: usize,
    /// Adjudicators.
    pub adjudicators: usize,
    /// Storage nodes.
    pub storages: usize,
    /// Query processors.
    pub queries: usize,
    /// Routers.
    pub routers: usize,
}

impl Default for Layout {
    /// The cluster of `deploy/local`, with a second router.
    fn default() -> Self {
        Self {
            journals: 3,
            adjudicators: 2,
            storages: 2,
            queries: 2,
            routers: 2,
        }
    }
}

/// A running cluster. Its processes are killed and its files removed when it is dropped; when the test
/// fails, the files stay and the path is printed.
pub struct Cluster {
    directory: Option<TempDir>,
    config: PathBuf,
    processes: BTreeMap<String, Option<Child>>,
    routers: Vec<String>,
    _turn: OwnedMutexGuard<()>,
}

/// One cluster at a time, however many tests run at once: two would fight for the cores.
static TURN: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

const START_TIMEOUT: Duration = Duration::from_secs(60);

impl Cluster {
    /// Creates a new cluster and starts all of its processes.
    pub async fn start(layout: Layout) -> Self {
        let turn = TURN.clone().lock_owned().await;
        let directory = tempfile::Builder::new()
            .prefix("meridian-e2e-")
            .tempdir()
            .expect("a directory");
        let config = directory.path().join("cluster.toml");
        let (text, names, routers) = configuration(directory.path(), layout);
        fs::write(&config, text).expect("the configuration is written");
        let init = Command::new(crate::meridian())
            .arg("init")
            .arg("--config")
            .arg(&config)
            .output();
        let init = init.expect("meridian init runs");
        assert!(
            init.status.success(),
            "init failed: {}",
            String::from_utf8_lossy(&init.stderr)
        );
        let processes = names.into_iter().map(|name| (name, None)).collect();
        let mut cluster = Self {
            directory: Some(directory),
            config,
            processes,
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
        for child in self.processes.values_mut().flatten() {
            child.kill().expect("the process can be killed");
        }
        for name in self.nodes() {
            self.kill(&name);
        }
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

/// The configuration, the names of all nodes, and the addresses of the routers.
fn configuration(directory: &Path, layout: Layout) -> (String, Vec<String>, Vec<String>) {
    let roles = [
        ("journal", layout.journals),
        ("adjudicator", layout.adjudicators),
        ("storage", layout.storages),
        ("query", layout.queries),
        ("router", layout.routers),
    ];
    let mut text = String::from("[cluster]\n");
    let (mut names, mut routers, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
    for (role, count) in roles {
        for number in 1..=count {
            // All sockets stay bound until every port is chosen, so that no port is chosen twice.
            let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = socket.local_addr().expect("its address").to_string();
            sockets.push(socket);
            let name = format!("{role}-{number}");
            let data = directory.join(&name);
            writeln!(
                text,
                "\n[[node]]\nname = \"{name}\"\naddress = \"{address}\"\nroles = [\"{role}\"]\ndata_dir = \"{}\"\nclock = {{ source = \"fixed\", bound_us = 50 }}",
                data.display()
            )
            .expect("writing to a string");
            if role == "router" {
                routers.push(address);
            }
            names.push(name);
        }
    }
    (text, names, routers)
}
