//! Creating a cluster, once: its id, the ids of its disks, and the directories of its nodes.
//!
//! ```text
//! cluster id -> file    IDENTITY of each journal node -> its directory    disk ids -> file
//! ```
//! In this order, so that a run that a crash ended can be run again: a disk id stands in the file only when its
//! directory was registered, and from then on an empty directory is a lost disk, never a new one.

use std::io::Write;
use std::path::{Path, PathBuf};

use meridian_journal::StartError;
use meridian_journal::disk::{self, DiskIdentity};
use meridian_types::{ClusterId, DiskId};
use toml_edit::{DocumentMut, value};
use uuid::Uuid;

use crate::config::{Loaded, NodeSection, Role};
use crate::error::Error;

/// What to create.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The configuration file. Ids that it lacks are written into it; everything else in it stays as it is.
    pub config: PathBuf,
    /// Only this node's directory: for a cluster on several machines, run on each of them.
    pub node: Option<String>,
    /// This journal node's disk was lost: give it a new id and an empty log.
    pub replace_lost_disk: Option<String>,
    /// Copied to where the configuration is to be, if there is none.
    pub template: Option<PathBuf>,
    /// That there is nothing to create is no error.
    pub if_needed: bool,
}

/// What was done, one line each, for people.
pub type Report = Vec<String>;

/// Creates the cluster, or a node of it, or replaces a disk. `new_id` draws ids.
pub fn init(options: &InitOptions, mut new_id: impl FnMut() -> Uuid) -> Result<Report, Error> {
    let mut report = Report::new();
    if let Some(template) = options.template.as_ref().filter(|_| !options.config.exists()) {
        copy_template(template, &options.config, &mut report)?;
    }
    let loaded = Loaded::read_checked(&options.config)?;
    let mut ids = IdFile::open(&loaded)?;
    if let Some(name) = &options.replace_lost_disk {
        replace_disk(&loaded, &mut ids, name, DiskId(new_id()), &mut report)?;
        return Ok(report);
    }
    let nodes: Vec<&NodeSection> = match &options.node {
        Some(name) => vec![loaded.file.node(name)?],
        None => loaded.file.nodes.iter().collect(),
    };
    refuse_lost_disks(&nodes)?;
    let cluster = match loaded.file.cluster.id {
        Some(id) => id,
        None => {
            let id = ClusterId(new_id());
            ids.set_cluster(id)?;
            report.push(format!(
                "cluster {id} created, its id written to {}",
                loaded.path.display()
            ));
            id
        }
    };
    let mut created = report.len();
    for node in nodes {
        created += usize::from(create_node(
            node,
            cluster,
            &mut ids,
            DiskId(new_id()),
            &mut report,
        )?);
    }
    if created == 0 && !options.if_needed {
        return Err(Error::Usage(
            "everything is initialised already; nothing was changed (a lost disk: --replace-lost-disk NODE)"
                .to_owned(),
        ));
    }
    Ok(report)
}

/// The template becomes the configuration whole or not at all.
fn copy_template(template: &Path, config: &Path, report: &mut Report) -> Result<(), Error> {
    let text = std::fs::read_to_string(template).map_err(|source| Error::Io {
        what: "read the template",
        path: template.to_owned(),
        source,
    })?;
    write_durably(config, &text)?;
    report.push(format!("{} copied to {}", template.display(), config.display()));
    Ok(())
}

/// A journal node that has a disk id was registered. If its directory is empty now, its disk was lost, and
/// starting it as if it were new could lose what others count on.
fn refuse_lost_disks(nodes: &[&NodeSection]) -> Result<(), Error> {
    for node in nodes.iter().filter(|node| node.disk_id.is_some()) {
        let Some(dir) = journal_dir(node) else { continue };
        if matches!(disk::load(&dir), Err(StartError::NotRegistered { .. })) {
            return Err(Error::Usage(format!(
                "{} was initialised before, and {} holds nothing of it now: mount the right directory, or, if the disk \
                 is lost, run `meridian init --replace-lost-disk {}`",
                node.name,
                dir.display(),
                node.name
            )));
        }
    }
    Ok(())
}

/// Whether anything was created.
fn create_node(
    node: &NodeSection,
    cluster: ClusterId,
    ids: &mut IdFile,
    fresh: DiskId,
    report: &mut Report,
) -> Result<bool, Error> {
    let mut is_new = false;
    if let Some(dir) = service_dir(node, Role::Storage) {
        is_new |= create_dir(&dir)?;
    }
    if let (Some(dir), None) = (journal_dir(node), node.disk_id) {
        create_dir(&dir)?;
        let disk_id = register(&dir, node, cluster, fresh)?;
        ids.set_disk(&node.name, disk_id)?;
        report.push(format!(
            "{}: disk {disk_id} registered in {}",
            node.name,
            dir.display()
        ));
        is_new = true;
    } else if is_new {
        report.push(format!("{}: directory created", node.name));
    }
    Ok(is_new)
}

/// Registers the directory, or takes the id under which an interrupted run did.
fn register(dir: &Path, node: &NodeSection, cluster: ClusterId, fresh: DiskId) -> Result<DiskId, Error> {
    match disk::initialise(dir, cluster, node.node_name(), fresh) {
        Ok(()) => Ok(fresh),
        Err(StartError::AlreadyRegistered { .. }) => {
            let found = disk::load(dir).map_err(|error| disk_error(node, &error))?;
            let is_ours = found.cluster == cluster && found.node == node.node_name() && !found.rejoining;
            if !is_ours {
                return Err(foreign_disk(node, dir, &found));
            }
            Ok(found.disk_id)
        }
        Err(error) => Err(disk_error(node, &error)),
    }
}

fn replace_disk(
    loaded: &Loaded,
    ids: &mut IdFile,
    name: &str,
    fresh: DiskId,
    report: &mut Report,
) -> Result<(), Error> {
    let node = loaded.file.node(name)?;
    let (Some(dir), Some(cluster), Some(lost)) = (journal_dir(node), loaded.file.cluster.id, node.disk_id)
    else {
        return Err(Error::Usage(format!(
            "{name} is not an initialised journal node: there is no disk to replace"
        )));
    };
    create_dir(&dir)?;
    disk::replace(&dir, cluster, node.node_name(), fresh).map_err(|error| disk_error(node, &error))?;
    ids.set_disk(name, fresh)?;
    report.push(format!(
        "{name}: disk {fresh} replaces {lost}; it counts again once the owners of its streams have rebuilt it. \
         Copy the file to the node if this is not its machine"
    ));
    Ok(())
}

/// The identity of a journal node's directory, checked against the configuration.
pub(crate) fn load_identity(node: &NodeSection, cluster: ClusterId) -> Result<DiskIdentity, Error> {
    let dir = journal_dir(node).unwrap_or_default();
    let found = disk::load(&dir).map_err(|error| disk_error(node, &error))?;
    let is_ours = found.cluster == cluster
        && found.node == node.node_name()
        && node.disk_id.is_none_or(|expected| expected == found.disk_id);
    if is_ours {
        Ok(found)
    } else {
        Err(foreign_disk(node, &dir, &found))
    }
}

/// Where a service of the node keeps its files. `None` when the node does not have the role.
pub(crate) fn service_dir(node: &NodeSection, role: Role) -> Option<PathBuf> {
    let dir = node.data_dir.as_ref().filter(|_| node.has(role))?;
    Some(dir.join(role.name()))
}

fn journal_dir(node: &NodeSection) -> Option<PathBuf> {
    service_dir(node, Role::Journal)
}

/// Whether the directory is new.
pub(crate) fn create_dir(dir: &Path) -> Result<bool, Error> {
    let is_new = !dir.exists();
    std::fs::create_dir_all(dir).map_err(|source| Error::Io {
        what: "create a data directory",
        path: dir.to_owned(),
        source,
    })?;
    Ok(is_new)
}

fn disk_error(node: &NodeSection, error: &StartError) -> Error {
    let hint = match error {
        StartError::NotRegistered { .. } => {
            format!(
                " (if its disk is lost: `meridian init --replace-lost-disk {}`)",
                node.name
            )
        }
        _ => String::new(),
    };
    Error::Usage(format!("{}: {error}{hint}", node.name))
}

fn foreign_disk(node: &NodeSection, dir: &Path, found: &DiskIdentity) -> Error {
    Error::Usage(format!(
        "{} belongs to node {} of cluster {} (disk {}), not to {} as configured: is the right directory mounted?",
        dir.display(),
        found.node,
        found.cluster,
        found.disk_id,
        node.name
    ))
}

/// The configuration file as text that is edited in place: comments and order stay.
struct IdFile {
    path: PathBuf,
    document: DocumentMut,
}

impl IdFile {
    fn open(loaded: &Loaded) -> Result<Self, Error> {
        let document = loaded
            .text
            .parse()
            .map_err(|error: toml_edit::TomlError| Error::Config {
                path: loaded.path.clone(),
                what: error.to_string(),
            })?;
        Ok(Self {
            path: loaded.path.clone(),
            document,
        })
    }

    fn set_cluster(&mut self, id: ClusterId) -> Result<(), Error> {
        if let Some(cluster) = self
            .document
            .get_mut("cluster")
            .and_then(|item| item.as_table_like_mut())
        {
            cluster.insert("id", value(id.to_string()));
        }
        self.write()
    }

    fn set_disk(&mut self, name: &str, id: DiskId) -> Result<(), Error> {
        let nodes = self
            .document
            .get_mut("node")
            .and_then(|item| item.as_array_of_tables_mut());
        let named =
            |table: &&mut toml_edit::Table| table.get("name").and_then(|name| name.as_str()) == Some(name);
        if let Some(table) = nodes.and_then(|nodes| nodes.iter_mut().find(named)) {
            table.insert("disk_id", value(id.to_string()));
        }
        self.write()
    }

    /// Replaces the file in one step, durably.
    fn write(&self) -> Result<(), Error> {
        write_durably(&self.path, &self.document.to_string())
    }
}

/// Writes a small file so that after a crash it holds either the old text or the new one.
pub(crate) fn write_durably(path: &Path, text: &str) -> Result<(), Error> {
    let io_error = |source| Error::Io {
        what: "write a file",
        path: path.to_owned(),
        source,
    };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = std::fs::File::create(&new).map_err(io_error)?;
    file.write_all(text.as_bytes()).map_err(io_error)?;
    file.sync_all().map_err(io_error)?;
    std::fs::rename(&new, path).map_err(io_error)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error)
}
