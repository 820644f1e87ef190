//! What an embedded cluster keeps about itself: `CLUSTER`, with its id and those of its disks.
//!
//! Written before the directories are registered and marked complete after them, so that a first start that a
//! crash ended goes on where it was, and a directory that vanishes later is never taken for a new one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use meridian_clock::SharedClock;
use meridian_journal::{StartError, disk};
use meridian_types::{ClusterId, DiskId};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CLOCK, Options, REGION};
use crate::config::{ClusterSection, File, NodeSection, Role, ServiceSettings};
use crate::error::Error;
use crate::init;

const STATE_FILE: &str = "CLUSTER";
const FORMAT: u32 = 1;
/// The nodes: role and how many of it.
const LAYOUT: [(Role, usize); 5] = [
    (Role::Journal, 3),
    (Role::Adjudicator, 2),
    (Role::Storage, 1),
    (Role::Query, 1),
    (Role::Router, 1),
];
/// Smaller segments than a server's: a cluster that somebody tries out should not take 200 MB of disk.
const SEGMENT_BYTES: u64 = 16 << 20;
/// A cluster in one process ends with its program: sessions that are still open then are given up soon.
const DRAIN_MS: u64 = 300;

/// The file's content. Unknown fields are refused: they were written by a newer program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    cluster: Uuid,
    is_complete: bool,
    disks: BTreeMap<String, Uuid>,
}

/// The configuration of the cluster in the directory, which is created when it is new.
pub(super) fn open(
    options: &Options,
    clock: &SharedClock,
    random: &mut dyn RngCore,
) -> Result<(File, ClusterId), Error> {
    let path = options.data_dir.join(STATE_FILE);
    let mut state = match read(&path)? {
        Some(state) => state,
        None => {
            let state = create(clock, random);
            write(&path, &state)?;
            state
        }
    };
    let file = configuration(options, &state);
    if !state.is_complete {
        register_disks(&file, &state)?;
        state.is_complete = true;
        write(&path, &state)?;
    }
    Ok((file, ClusterId(state.cluster)))
}

fn create(clock: &SharedClock, random: &mut dyn RngCore) -> State {
    let mut new_id = || {
        let mut bytes = [0; 10];
        random.fill_bytes(&mut bytes);
        uuid::Builder::from_unix_timestamp_millis(clock.now().latest.0 / 1_000_000, &bytes).into_uuid()
    };
    State {
        format: FORMAT,
        cluster: new_id(),
        is_complete: false,
        disks: names(Role::Journal).map(|name| (name, new_id())).collect(),
    }
}

fn names(role: Role) -> impl Iterator<Item = String> {
    let count = LAYOUT
        .iter()
        .find(|(of, _)| *of == role)
        .map_or(0, |(_, count)| *count);
    (1..=count).map(move |number| format!("{role}-{number}"))
}

fn configuration(options: &Options, state: &State) -> File {
    let node = |role: Role, name: String| NodeSection {
        region: REGION.to_owned(),
        address: "in process".to_owned(),
        roles: vec![role],
        data_dir: role.keeps_files().then(|| options.data_dir.join(&name)),
        disk_id: state.disks.get(&name).map(|id| DiskId(*id)),
        clock: CLOCK,
        settings: settings(),
        name,
    };
    let nodes = Role::ALL
        .into_iter()
        .flat_map(|role| names(role).map(move |name| (role, name)));
    File {
        cluster: ClusterSection {
            id: Some(ClusterId(state.cluster)),
            settings: options.settings.clone(),
        },
        nodes: nodes.map(|(role, name)| node(role, name)).collect(),
    }
}

fn settings() -> ServiceSettings {
    let mut settings = ServiceSettings::default();
    settings.journal.segment_bytes = SEGMENT_BYTES;
    settings.query.drain_ms = DRAIN_MS;
    settings.router.drain_ms = DRAIN_MS;
    settings
}

fn register_disks(file: &File, state: &State) -> Result<(), Error> {
    let cluster = ClusterId(state.cluster);
    for node in file.nodes.iter().filter(|node| node.has(Role::Journal)) {
        let (Some(dir), Some(disk_id)) = (init::service_dir(node, Role::Journal), node.disk_id) else {
            continue;
        };
        init::create_dir(&dir)?;
        match disk::initialise(&dir, cluster, node.node_name(), disk_id) {
            Ok(()) => {}
            // By a first start that did not come to its end; anything else does not fit.
            Err(StartError::AlreadyRegistered { .. }) => {
                init::load_identity(node, cluster)?;
            }
            Err(error) => return Err(Error::Usage(format!("{}: {error}", node.name))),
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<State>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return refuse_headless(path),
        Err(source) => {
            return Err(Error::Io {
                what: "read the cluster's identity",
                path: path.to_owned(),
                source,
            });
        }
    };
    let broken = |what: String| Error::Config {
        path: path.to_owned(),
        what,
    };
    let state: State = toml::from_str(&text).map_err(|error| broken(error.to_string()))?;
    if state.format != FORMAT {
        return Err(broken(format!(
            "format version {} is not understood, this program understands {FORMAT}: run the program that wrote it",
            state.format
        )));
    }
    Ok(Some(state))
}

/// Without the file the directory must be new: data of a cluster whose identity is lost is not overwritten.
fn refuse_headless(path: &Path) -> Result<Option<State>, Error> {
    let parent = path.parent().map(PathBuf::from).unwrap_or_default();
    match names(Role::Journal).find(|name| parent.join(name).exists()) {
        None => Ok(None),
        Some(name) => Err(Error::Usage(format!(
            "{} is missing, but {} holds data of a cluster: restore the file, or name another directory",
            path.display(),
            parent.join(name).display()
        ))),
    }
}

fn write(path: &Path, state: &State) -> Result<(), Error> {
    let text = toml::to_string(state).map_err(|error| Error::Usage(format!("{STATE_FILE}: {error}")))?;
    init::write_durably(path, &text)
}
