//! The binary against an in-memory cluster on the loopback interface.
#![allow(clippy::unwrap_used)]

mod commands;
#[cfg(feature = "embedded")]
mod dev;
mod parser;
mod printer;
mod scripts;
mod transfers;

use std::process::Stdio;

use meridian_client::Client;
use meridian_client::fake::FakeCluster;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A cluster that listens, and where.
struct Server {
    cluster: FakeCluster,
    address: String,
}

/// How a run of the binary ended.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Server {
    async fn start() -> Self {
        let cluster = FakeCluster::new();
        let address = cluster.listen().await.to_string();
        Self { cluster, address }
    }

    fn client(&self) -> Client {
        self.cluster.client()
    }

    /// Runs the binary with nothing on its standard input.
    async fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, b"").await
    }

    /// Runs the binary with this on its standard input.
    async fn run_with(&self, args: &[&str], input: &[u8]) -> Run {
        run_at(&self.address, args, input).await
    }
}

async fn run_at(endpoint: &str, args: &[&str], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kv-cli"))
        .args(args)
        .env("MERIDIAN_ENDPOINT", endpoint)
        .env_remove("MERIDIAN_TIMEOUT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that does not read its input closes it early.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Run {
    /// Asserts the code and standard output, and hands out standard error.
    #[track_caller]
    fn expect(&self, code: i32, stdout: &str) -> &str {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (code, stdout),
            "stderr: {}",
            self.stderr
        );
        &self.stderr
    }
}
