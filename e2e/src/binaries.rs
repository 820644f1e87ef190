//! Where the built binaries are. They are built once, with the profile of the running test; unless `MERIDIAN_BINARIES` names a
//! directory that holds them, to try those of another build.

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
        if let Some(given) = std::env::var_os("MERIDIAN_BINARIES") {
            return given.into();
        }
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
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    // The whole workspace's, so that the features of its dependencies are those that the tests were built with.
    cargo.args(["build", "--quiet", "--locked", "--workspace", "--bins"]);
    // What cargo tells this test about its package would make build scripts run again that look at it.
    for (name, _) in std::env::vars_os() {
        let of_the_package = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if of_the_package {
            cargo.env_remove(name);
        }
    }
    if directory.file_name().is_some_and(|profile| profile == "release") {
        cargo.arg("--release");
    }
    if let Some(target) = directory.parent() {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "the binaries do not build: {status}");
}
