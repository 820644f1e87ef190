//! One node with all roles as a process.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use meridian_client::Client;
use meridian_rpc::internal::StateRequest;
use meridian_rpc::internal::journal_client::JournalClient;
use meridian_rpc::v1::NodeStatusRequest;
use meridian_rpc::v1::node_client::NodeClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

const PATIENCE: Duration = Duration::from_secs(30);

struct Process {
    dir: TempDir,
    address: String,
    child: Option<Child>,
}

impl Process {
    fn create() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let config = format!(
            "[cluster]\n\n[[node]]\nname = \"all\"\naddress = \"{address}\"\ndata_dir = \"all\"\n\
             roles = [\"journal\", \"adjudicator\", \"storage\", \"query\", \"router\"]\n\
             clock = {{ source = \"fixed\", bound_us = 50 }}\n"
        );
        fs::write(dir.path().join("cluster.toml"), config).unwrap();
        let process = Self {
            dir,
            address,
            child: None,
        };
        let done = process.command("init").status().unwrap();
        assert!(done.success());
        process
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        let silent = Stdio::null();
        command
            .arg(name)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(silent);
        command
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    async fn start(&mut self) {
        let log = File::create(self.log()).unwrap();
        let mut serve = self.command("serve");
        serve
            .args(["--node", "all", "--log-format", "json"])
            .env("MERIDIAN_LOG", "info")
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
            .stderr(log);
        self.child = Some(serve.spawn().unwrap());
        self.until(|log| log.contains("\"message\":\"ready\"")).await;
    }

    async fn until(&mut self, holds: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(self.log()).unwrap();
            if holds(&log) {
                return;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, and the exit code.
    async fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let killed = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    HealthClient::new(channel.clone())
        .check(request)
        .await
        .unwrap()
        .into_inner()
        .status()
}

async fn reflected_services(channel: &Channel) -> Vec<String> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer: ServerReflectionResponse = answers.message().await.unwrap().unwrap();
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_says_how_it_is_and_stops_cleanly() {
    let mut process = Process::create();
    process.start().await;
    let channel = process.channel().await;
    for service in [
        "",
        "live",
        "ready",
        "journal",
        "adjudicator",
        "storage",
        "query",
        "router",
    ] {
        assert_eq!(
            health(&channel, service).await,
            ServingStatus::Serving,
            "{service}"
        );
    }
    let services = reflected_services(&channel).await;
    for service in [
        "meridian.v1.Kv",
        "meridian.v1.Node",
        "meridian.internal.v1.Journal",
        "grpc.health.v1.Health",
    ] {
        assert!(
            services.iter().any(|name| name == service),
            "{service}: {services:?}"
        );
    }
    let status = NodeClient::new(channel.clone())
        .status(NodeStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.node.as_str(), status.services.len(), status.clock_healthy),
        ("all", 5, true)
    );
    assert_eq!(status.clock_bound, 50_000);

    // Whoever does not say that it belongs to the cluster is refused, with the reason.
    let refused = JournalClient::new(channel.clone())
        .state(StateRequest::default())
        .await
        .unwrap_err();
    assert!(
        refused
            .message()
            .contains("format version none is not understood"),
        "{refused}"
    );

    let client = Client::connect([&process.address]).await.unwrap();
    client.put("key", "value").await.unwrap();
    drop((client, channel));
    let began = Instant::now();
    assert_eq!(process.stop().await, Some(0));
    println!("stopped in {:?}", began.elapsed());
    let log = fs::read_to_string(process.log()).unwrap();
    assert!(
        log.lines()
            .all(|line| line.starts_with('{') && line.ends_with('}')),
        "{log}"
    );

    process.start().await;
    let client = Client::connect([&process.address]).await.unwrap();
    assert_eq!(client.get("key").await.unwrap().as_deref(), Some(&b"value"[..]));
    drop(client);
    assert_eq!(process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_do_not_share_a_directory_or_an_address() {
    let mut process = Process::create();
    process.start().await;
    let second = |args: &[&str]| {
        let mut serve = process.command("serve");
        let done = serve
            .args(["--node", "all"])
            .args(args)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, said) = second(&[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("is in use by another process"), "{said}");
    let (code, said) = second(&["--data-dir", "elsewhere"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("elsewhere does not exist: run `meridian init`"),
        "{said}"
    );
    let (code, said) = second(&["--role", "router"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("could not listen on"), "{said}");
    assert_eq!(process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_and_the_service_manager_are_told_when_it_is_ready() {
    let mut process = Process::create();
    let supervisor = UnixDatagram::bind(process.dir.path().join("notify")).unwrap();
    supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut message = [0; 1_024];
        let length = supervisor.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let health = |process: &Process, args: &[&str]| {
        let mut asked = process.command("health");
        let done = asked
            .args(["--node", "all"])
            .args(args)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, said) = health(&process, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("cannot be reached"), "{said}");

    process.start().await;
    // Before that it may have said what it waits for.
    let ready = std::iter::repeat_with(told)
        .find(|told| told.contains("READY=1"))
        .unwrap();
    assert!(
        ready.contains(&format!("STATUS=serving at {}", process.address)),
        "{ready}"
    );
    assert_eq!(health(&process, &[]), (Some(0), String::new()));
    assert_eq!(health(&process, &["--service", "storage"]).0, Some(0));
    let (code, said) = health(&process, &["--service", "kitchen"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no service \"kitchen\" here"), "{said}");
    let (code, said) = health(&process, &["--at", "127.0.0.1:1"]);
    assert!(code == Some(1) && said.contains("127.0.0.1:1"), "{said}");

    assert_eq!(process.stop().await, Some(0));
    assert_eq!(told().trim(), "STOPPING=1");
}
