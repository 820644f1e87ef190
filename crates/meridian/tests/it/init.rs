use std::fs;
use std::path::PathBuf;

use meridian::config::Loaded;
use meridian::init::{InitOptions, init};
use meridian_journal::disk;
use tempfile::TempDir;
use uuid::Uuid;

/// A configuration with a comment, which must survive.
const CONFIG: &str = r#"
# ours
[cluster]

[[node]]
name = "a"
address = "127.0.0.1:7001"
roles = ["journal", "adjudicator", "storage"] # three roles
data_dir = "a"

[[node]]
name = "b"
address = "127.0.0.1:7002"
roles = ["journal", "query", "router"]
data_dir = "b"
"#;

struct Fixture {
    dir: TempDir,
    next: u128,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cluster.toml"), CONFIG).unwrap();
        Self { dir, next: 0 }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("cluster.toml")
    }

    fn init(&mut self, node: Option<&str>, replace: Option<&str>) -> Result<Vec<String>, String> {
        let options = InitOptions {
            config: self.config(),
            node: node.map(str::to_owned),
            replace_lost_disk: replace.map(str::to_owned),
            ..self.options()
        };
        self.run(&options)
    }

    fn options(&self) -> InitOptions {
        InitOptions {
            config: self.config(),
            node: None,
            replace_lost_disk: None,
            template: None,
            if_needed: false,
        }
    }

    fn run(&mut self, options: &InitOptions) -> Result<Vec<String>, String> {
        let new_id = || {
            self.next += 1;
            Uuid::from_u128(self.next)
        };
        init(options, new_id).map_err(|error| error.to_string())
    }

    fn disk_id(&self, node: &str) -> Option<Uuid> {
        let loaded = Loaded::read_checked(&self.config()).unwrap();
        loaded.file.node(node).unwrap().disk_id.map(|id| id.0)
    }

    fn identity(&self, node: &str) -> disk::DiskIdentity {
        disk::load(&self.dir.path().join(node).join("journal")).unwrap()
    }
}

#[test]
fn a_cluster_is_created_once_and_its_file_keeps_its_comments() {
    let mut fixture = Fixture::new();
    fixture.init(None, None).unwrap();
    let text = fs::read_to_string(fixture.config()).unwrap();
    assert!(
        text.contains("# ours") && text.contains("# three roles"),
        "{text}"
    );
    let loaded = Loaded::read_checked(&fixture.config()).unwrap();
    for node in ["a", "b"] {
        let identity = fixture.identity(node);
        assert_eq!(Some(identity.cluster), loaded.file.cluster.id);
        assert_eq!(Some(identity.disk_id.0), fixture.disk_id(node));
        assert!(!identity.rejoining);
    }
    assert_ne!(fixture.disk_id("a"), fixture.disk_id("b"));
    assert!(fixture.dir.path().join("a/storage").is_dir());

    let again = fixture.init(None, None).unwrap_err();
    assert!(again.contains("initialised already"), "{again}");
    assert_eq!(fs::read_to_string(fixture.config()).unwrap(), text);
}

#[test]
fn an_emptied_directory_is_a_lost_disk_and_never_a_new_one() {
    let mut fixture = Fixture::new();
    fixture.init(None, None).unwrap();
    let before = fixture.disk_id("b");
    fs::remove_dir_all(fixture.dir.path().join("b")).unwrap();
    for node in [None, Some("b")] {
        let error = fixture.init(node, None).unwrap_err();
        assert!(error.contains("--replace-lost-disk b"), "{error}");
    }

    fixture.init(None, Some("b")).unwrap();
    assert_ne!(fixture.disk_id("b"), before);
    assert!(
        fixture.identity("b").rejoining,
        "it must not count before it was rebuilt"
    );
    assert_eq!(Some(fixture.identity("b").disk_id.0), fixture.disk_id("b"));
    let error = fixture.init(None, Some("c")).unwrap_err();
    assert!(error.contains("has no node \"c\""), "{error}");
}

#[test]
fn nodes_can_be_created_one_by_one_and_an_interrupted_run_goes_on() {
    let mut fixture = Fixture::new();
    fixture.init(Some("a"), None).unwrap();
    assert!(fixture.disk_id("b").is_none());
    let cluster = Loaded::read_checked(&fixture.config())
        .unwrap()
        .file
        .cluster
        .id
        .unwrap();

    // As if a crash came after the registration of b and before its id was written.
    let dir = fixture.dir.path().join("b/journal");
    let registered = meridian_types::DiskId(Uuid::from_u128(77));
    disk::initialise(&dir, cluster, "b".into(), registered).unwrap();
    fixture.init(None, None).unwrap();
    assert_eq!(fixture.disk_id("b"), Some(registered.0));
    assert_eq!(fixture.identity("a").cluster, cluster);
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let mut fixture = Fixture::new();
    let dir = fixture.dir.path().join("b/journal");
    let foreign = meridian_types::ClusterId(Uuid::from_u128(99));
    disk::initialise(
        &dir,
        foreign,
        "b".into(),
        meridian_types::DiskId(Uuid::from_u128(98)),
    )
    .unwrap();
    let error = fixture.init(None, None).unwrap_err();
    assert!(
        error.contains("belongs to node b of cluster 00000000-0000-0000-0000-000000000063"),
        "{error}"
    );
}

#[test]
fn containers_begin_with_a_template_and_may_ask_again() {
    let mut fixture = Fixture::new();
    let template = fixture.dir.path().join("template.toml");
    fs::rename(fixture.config(), &template).unwrap();
    let options = InitOptions {
        template: Some(template.clone()),
        if_needed: true,
        ..fixture.options()
    };
    let report = fixture.run(&options).unwrap().join("\n");
    assert!(report.contains("template.toml copied to"), "{report}");
    let created = fs::read_to_string(fixture.config()).unwrap();
    assert_eq!(
        fs::read_to_string(template).unwrap(),
        CONFIG,
        "only the copy is written to"
    );

    assert_eq!(fixture.run(&options), Ok(vec![]));
    assert_eq!(fs::read_to_string(fixture.config()).unwrap(), created);
    // That a disk is lost is an error all the same.
    fs::remove_dir_all(fixture.dir.path().join("a")).unwrap();
    assert!(
        fixture
            .run(&options)
            .unwrap_err()
            .contains("--replace-lost-disk a")
    );
}
