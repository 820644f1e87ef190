//! PostgreSQL's servers: creating, copying and starting them, under a user that is not root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, geteuid};

use super::super::{Process, Region, output_of};
use crate::error::{Error, Result};

/// The database's superuser, whom everybody on this machine is taken for.
pub(super) const USER: &str = "bench";

/// Users that may be there to run it when we are root: the package's own, or else nobody.
const SYSTEM_USERS: [&str; 2] = ["postgres", "nobody"];

/// Programs, and a directory that belongs to who runs them.
pub(super) struct Installation {
    programs: PathBuf,
    dir: PathBuf,
    /// Who runs them, if it is not us.
    owner: Option<(u32, u32)>,
}

/// The server's settings. What is not here is as PostgreSQL comes: fsync, full_page_writes and synchronous_commit are on.
pub(super) fn settings(max_connections: usize) -> String {
    [
        "listen_addresses = '127.0.0.1'".to_owned(),
        // No socket files: their directory may not be ours, and clients come by TCP.
        "unix_socket_directories = ''".to_owned(),
        format!("max_connections = {max_connections}"),
        // The default of 128 MB is meant for any machine.
        "shared_buffers = '256MB'".to_owned(),
        // Or else checkpoints, and with them whole pages in the log, come every few seconds.
        "max_wal_size = '4GB'".to_owned(),
        "fsync = on".to_owned(),
        "synchronous_commit = on".to_owned(),
        "log_min_messages = warning".to_owned(),
        String::new(),
    ]
    .join("\n")
}

impl Installation {
    /// Chooses who runs it, and gives them the directory.
    pub(super) fn new(programs: PathBuf, dir: PathBuf) -> Result<Self> {
        let owner = if geteuid().is_root() {
            Some(system_user()?)
        } else {
            None
        };
        if let Some((uid, gid)) = owner {
            chown(&dir, Some(uid), Some(gid)).map_err(Error::io("give away the directory", &dir))?;
            // They must be able to come to it; only its name is to be seen above.
            if let Some(above) = dir.parent() {
                let passable = fs::Permissions::from_mode(0o711);
                fs::set_permissions(above, passable).map_err(Error::io("open the directory", above))?;
            }
        }
        Ok(Self { programs, dir, owner })
    }

    /// Creates the primary's files.
    pub(super) async fn create_primary(&self, settings: &str) -> Result<()> {
        let data = self.data(Region::A);
        let mut command = self.command("initdb");
        command.args([
            "--username",
            USER,
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
        ]);
        command.arg("--pgdata").arg(&data);
        output_of(command).await?;
        append(&data.join("postgresql.conf"), settings)
    }

    /// Copies the primary to a standby, which will follow it through that port.
    pub(super) async fn copy(&self, region: Region, primary_port: u16, upstream_port: u16) -> Result<()> {
        let data = self.data(region);
        let mut command = self.command("pg_basebackup");
        command.args([
            "--host",
            "127.0.0.1",
            "--port",
            &primary_port.to_string(),
            "--username",
            USER,
        ]);
        command.args([
            "--wal-method",
            "stream",
            "--checkpoint",
            "fast",
            "--write-recovery-conf",
        ]);
        command.arg("--pgdata").arg(&data);
        output_of(command).await?;
        // What stands last holds.
        let upstream = format!(
            "primary_conninfo = 'host=127.0.0.1 port={upstream_port} user={USER} application_name={region}'\n"
        );
        append(&data.join("postgresql.auto.conf"), &upstream)
    }

    /// Starts a server. It stops at once by SIGQUIT, with all of its children.
    pub(super) fn serve(&self, region: Region, port: u16) -> Result<Process> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data(region));
        command.args(["-p", &port.to_string()]);
        Process::start(region.name(), command, &self.dir, Signal::QUIT)
    }

    fn data(&self, region: Region) -> PathBuf {
        self.dir.join(region.name())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(&self.dir);
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn append(path: &Path, text: &str) -> Result<()> {
    let mut whole = fs::read_to_string(path).map_err(Error::io("read the settings", path))?;
    whole.push_str(text);
    fs::write(path, whole).map_err(Error::io("write the settings", path))
}

/// A user and group that are not root's. PostgreSQL refuses to run as root.
fn system_user() -> Result<(u32, u32)> {
    let path = Path::new("/etc/passwd");
    let text = fs::read_to_string(path).map_err(Error::io("read the users", path))?;
    let found = SYSTEM_USERS.iter().find_map(|name| ids(&text, name));
    found.ok_or_else(|| Error::Missing {
        what: "a user to run PostgreSQL".to_owned(),
        advice: "it refuses root, and there is neither postgres nor nobody; run this as another user"
            .to_owned(),
    })
}

fn ids(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        if *fields.first()? != name {
            return None;
        }
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7::/:\npostgres:x:105:111:,,,:/var/lib:/bin/bash\n";
        assert_eq!(ids(passwd, "postgres"), Some((105, 111)));
        assert_eq!(ids(passwd, "nobody"), None);
    }
}
