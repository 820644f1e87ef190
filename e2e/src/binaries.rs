//! Where the built binaries are. They are built once, with the profile of the running test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The server binary.
pub fn meridian() -> PathBuf {
    directory().join("meridian")
}

/// The shell.
pub fn kv_cli() -> PathBuf {
    directory().join("kv-cli")
}

/// `target/PROFILE`: the test binary itself lies in `target/PROFILE/deps`.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of the running test");
        let directory = test
            .parent()
            .and_then(Path::parent)
            .expect("target/PROFILE/deps/TEST")
            .to_owned();
        build(&directory);
        directory
    })
}

fn build(directory: &Path) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "-p", "meridian", "-p", "kv-cli"]);
    if directory.file_name().is_some_and(|profile| profile == "release") {
        cargo.arg("--release");
    }
    if let Some(target) = directory.parent() {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "the binaries do not build: {status}");
}
