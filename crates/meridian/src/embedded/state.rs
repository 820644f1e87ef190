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

use super::{CLOCK, Options};
use crate::config::check::check_regions;
use crate::config::{
    ClusterSection, File, KeysSection, NodeSection, RangeSection, RegionKind, RegionSection, Role,
    ServiceSettings,
};
use crate::error::Error;
use crate::init;

const STATE_FILE: &str = "CLUSTER";
const FORMAT: u32 = 1;
/// The region of all nodes, where there are no several ones.
const REGION: &str = "local";
/// The nodes of a cluster in one region: role and how many of it.
const LAYOUT: [(Role, usize); 5] = [
    (Role::Journal, 3),
    (Role::Adjudicator, 2),
    (Role::Storage, 1),
    (Role::Query, 1),
    (Role::Router, 1),
];
/// The nodes of one active region of several. The second adjudicator: so that a range need not leave its region when it
/// loses its owner.
const REGION_LAYOUT: [(Role, usize); 5] = [
    (Role::Journal, 1),
    (Role::Adjudicator, 2),
    (Role::Storage, 1),
    (Role::Query, 1),
    (Role::Router, 1),
];
/// The nodes of a witness.
const WITNESS_LAYOUT: [(Role, usize); 1] = [(Role::Journal, 1)];
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    regions: Vec<RegionSection>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<RangeSection>,
}

/// The configuration of the cluster in the directory, which is created when it is new.
pub(super) fn open(
    options: &Options,
    clock: &SharedClock,
    random: &mut dyn RngCore,
) -> Result<(File, ClusterId), Error> {
    let path = options.data_dir.join(STATE_FILE);
    let mut state = match read(&path)? {
        Some(state) => {
            fits(&options.regions, &state.regions, "regions", &path)?;
            fits(&options.ranges, &state.ranges, "ranges", &path)?;
            state
        }
        None => {
            let state = create(options, clock, random);
            check(&configuration(options, &state))?;
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

/// What a directory was created with stays.
fn fits<T: PartialEq>(asked: &[T], kept: &[T], what: &str, path: &Path) -> Result<(), Error> {
    if asked.is_empty() || asked == kept {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{}: the cluster was created with other {what}, which stay as they are: leave them out, or name another directory",
        path.display()
    )))
}

fn check(file: &File) -> Result<(), Error> {
    let problems: Vec<String> = check_regions(file).iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Usage(problems.join("\n")))
    }
}

fn create(options: &Options, clock: &SharedClock, random: &mut dyn RngCore) -> State {
    let mut new_id = || {
        let mut bytes = [0; 10];
        random.fill_bytes(&mut bytes);
        uuid::Builder::from_unix_timestamp_millis(clock.now().latest.0 / 1_000_000, &bytes).into_uuid()
    };
    let regions = options.regions.clone();
    let journals = layout(&regions)
        .into_iter()
        .filter(|place| place.role == Role::Journal);
    State {
        format: FORMAT,
        cluster: new_id(),
        is_complete: false,
        disks: journals.map(|place| (place.name, new_id())).collect(),
        regions,
        ranges: options.ranges.clone(),
    }
}

/// One node to be.
struct Placed {
    role: Role,
    region: String,
    name: String,
}

/// All nodes, in the order in which they start. Those of one region are called `journal-1`, those of several `journal-a1`.
fn layout(regions: &[RegionSection]) -> Vec<Placed> {
    let place = |region: &str, infix: &str, counts: &[(Role, usize)]| -> Vec<Placed> {
        let each = counts
            .iter()
            .flat_map(|&(role, count)| (1..=count).map(move |number| (role, number)));
        each.map(|(role, number)| Placed {
            role,
            region: region.to_owned(),
            name: format!("{role}-{infix}{number}"),
        })
        .collect()
    };
    let mut nodes = Vec::new();
    for region in regions {
        nodes.extend(match region.kind {
            RegionKind::Active => place(&region.name, &region.name, &REGION_LAYOUT),
            RegionKind::Witness => place(&region.name, &region.name, &WITNESS_LAYOUT),
        });
    }
    if regions.is_empty() {
        nodes = place(REGION, "", &LAYOUT);
    }
    nodes.sort_by_key(|node| node.role);
    nodes
}

fn configuration(options: &Options, state: &State) -> File {
    let node = |place: Placed| NodeSection {
        region: place.region,
        address: "in process".to_owned(),
        metrics: None,
        roles: vec![place.role],
        data_dir: place
            .role
            .keeps_files()
            .then(|| options.data_dir.join(&place.name)),
        disk_id: state.disks.get(&place.name).map(|id| DiskId(*id)),
        storage_keys: KeysSection::default(),
        clock: CLOCK,
        settings: settings(),
        name: place.name,
    };
    File {
        cluster: ClusterSection {
            id: Some(ClusterId(state.cluster)),
            regions: state.regions.clone(),
            ranges: state.ranges.clone(),
            settings: options.settings.clone(),
        },
        nodes: layout(&state.regions).into_iter().map(node).collect(),
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
    let holds_data = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with(Role::Journal.name()) && entry.path().is_dir()
    };
    let found = std::fs::read_dir(&parent)
        .ok()
        .and_then(|entries| entries.flatten().find(holds_data));
    match found {
        None => Ok(None),
        Some(entry) => Err(Error::Usage(format!(
            "{} is missing, but {} holds data of a cluster: restore the file, or name another directory",
            path.display(),
            entry.path().display()
        ))),
    }
}

fn write(path: &Path, state: &State) -> Result<(), Error> {
    let text = toml::to_string(state).map_err(|error| Error::Usage(format!("{STATE_FILE}: {error}")))?;
    init::write_durably(path, &text)
}
