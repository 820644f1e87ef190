//! Which disk this is: registered once, when the cluster is created, and again only when it replaces a lost one.
//!
//! A lost disk never comes back under its old id: what it promised and held is forgotten, and nobody may count on it
//! before it was rebuilt (section 7). So an empty directory does not simply start.

use std::path::Path;

use bytes::Bytes;
use meridian_types::{ClusterId, DiskId, NodeName};

use crate::error::StartError;
use crate::files::{Files, RealFiles, read_exact_at};
use crate::wal::{BASE_FILE, MARK_FILE, Mark, NEW_BASE_FILE, segment_number};

const IDENTITY_FILE: &str = "IDENTITY";
const NEW_IDENTITY_FILE: &str = "IDENTITY.new";
const FORMAT: u32 = 1;
const MAX_BYTES: u64 = 4_096;

/// What a data directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeName,
    /// The disk.
    pub disk_id: DiskId,
    /// It replaced a lost disk: a stream counts here only once its owner has rebuilt it.
    pub rejoining: bool,
}

/// Registers the disk of a new cluster's node in `dir`, which is created if need be. Once per disk: an error when it is
/// registered already.
pub fn initialise(dir: &Path, cluster: ClusterId, node: NodeName, disk_id: DiskId) -> Result<(), StartError> {
    let identity = DiskIdentity {
        cluster,
        node,
        disk_id,
        rejoining: false,
    };
    initialise_in(&open_dir(dir)?, &identity)
}

/// Makes `dir` a disk that replaces a lost one, under a **new** disk id. Whatever log it holds is removed.
pub fn replace(dir: &Path, cluster: ClusterId, node: NodeName, disk_id: DiskId) -> Result<(), StartError> {
    let identity = DiskIdentity {
        cluster,
        node,
        disk_id,
        rejoining: true,
    };
    replace_in(&open_dir(dir)?, &identity)
}

/// The identity of `dir`. An error when it was not registered, or is not readable.
pub fn load(dir: &Path) -> Result<DiskIdentity, StartError> {
    load_from(&open_dir(dir)?)
}

/// [`initialise`] for any kind of files.
pub fn initialise_in(files: &dyn Files, identity: &DiskIdentity) -> Result<(), StartError> {
    let names = list(files)?;
    let in_use = |name: &String| name == IDENTITY_FILE || is_log(name);
    if let Some(file) = names.iter().find(|name| in_use(name)) {
        return Err(StartError::AlreadyRegistered {
            file: files.describe(file),
        });
    }
    // A mark without an identity was left by an attempt that a crash ended.
    renew_mark(files, &names)?;
    write(files, identity)
}

/// [`replace`] for any kind of files.
pub fn replace_in(files: &dyn Files, identity: &DiskIdentity) -> Result<(), StartError> {
    // The new identity first: after a crash in between, what is left of the old disk does not fit it and is refused.
    write(files, identity)?;
    let names = list(files)?;
    for name in names.iter().filter(|name| is_log(name)) {
        let removed = files.remove(name);
        removed.map_err(|error| StartError::io("remove", &files.describe(name), error))?;
    }
    renew_mark(files, &names)
}

/// Whether a file holds a part of the log.
fn is_log(name: &str) -> bool {
    name == BASE_FILE || name == NEW_BASE_FILE || segment_number(name).is_some()
}

/// [`load`] for any kind of files.
pub fn load_from(files: &dyn Files) -> Result<DiskIdentity, StartError> {
    let name = files.describe(IDENTITY_FILE);
    let file = files.open(IDENTITY_FILE).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => StartError::NotRegistered {
            dir: files.describe("."),
        },
        _ => StartError::io("open", &name, error),
    })?;
    let read = || {
        let len = usize::try_from(file.len()?.min(MAX_BYTES)).unwrap_or_default();
        read_exact_at(&*file, 0, len)
    };
    let bytes = read().map_err(|error| StartError::io("read", &name, error))?;
    decode(&name, &bytes)
}

fn open_dir(dir: &Path) -> Result<RealFiles, StartError> {
    RealFiles::new(dir).map_err(|error| StartError::io("open", &dir.display().to_string(), error))
}

fn list(files: &dyn Files) -> Result<Vec<String>, StartError> {
    files
        .list()
        .map_err(|error| StartError::io("list", &files.describe("."), error))
}

fn renew_mark(files: &dyn Files, names: &[String]) -> Result<(), StartError> {
    let renewed = || {
        if names.iter().any(|name| name == MARK_FILE) {
            files.remove(MARK_FILE)?;
        }
        Mark::initialise(files)?;
        files.sync_dir()
    };
    renewed().map_err(|error| StartError::io("write", &files.describe(MARK_FILE), error))
}

fn write(files: &dyn Files, identity: &DiskIdentity) -> Result<(), StartError> {
    let written = || {
        match files.remove(NEW_IDENTITY_FILE) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = files.create(NEW_IDENTITY_FILE)?;
        file.write_all_at(0, &[Bytes::from(encode(identity))])?;
        file.sync_data()?;
        files.rename(NEW_IDENTITY_FILE, IDENTITY_FILE)?;
        files.sync_dir()
    };
    written().map_err(|error| StartError::io("write", &files.describe(IDENTITY_FILE), error))
}

/// Text, so that an operator can read it; the checksum is over the lines before it.
fn encode(identity: &DiskIdentity) -> String {
    let DiskIdentity {
        cluster,
        node,
        disk_id,
        rejoining,
    } = identity;
    let text = format!(
        "meridian-journal-disk\nformat {FORMAT}\ncluster {cluster}\nnode {node}\ndisk {disk_id}\nrejoining {rejoining}\n"
    );
    let crc = crc32c::crc32c(text.as_bytes());
    format!("{text}crc {crc:08x}\n")
}

fn decode(name: &str, bytes: &[u8]) -> Result<DiskIdentity, StartError> {
    let damaged = || StartError::lost(name, 0, "the disk's identity is not readable");
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let mut lines = text.lines();
    if lines.next() != Some("meridian-journal-disk") {
        return Err(damaged());
    }
    let mut field = |label: &str| -> Option<&str> { lines.next()?.strip_prefix(label)?.strip_prefix(' ') };
    let format: u32 = field("format")
        .and_then(|value| value.parse().ok())
        .ok_or_else(damaged)?;
    if format != FORMAT {
        return Err(StartError::version(name, format, FORMAT));
    }
    let mut parsed = || -> Option<DiskIdentity> {
        let identity = DiskIdentity {
            cluster: field("cluster")?.parse().ok()?,
            node: field("node")?.into(),
            disk_id: field("disk")?.parse().ok()?,
            rejoining: field("rejoining")?.parse().ok()?,
        };
        // The same text again proves the checksum, and that nothing else stands there.
        (encode(&identity) == text).then_some(identity)
    };
    parsed().ok_or_else(damaged)
}
