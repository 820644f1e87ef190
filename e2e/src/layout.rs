//! Which processes a cluster has, and the configuration that says so.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;

/// How many nodes of each role. Each is a process of its own.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Journal nodes.
    pub journals: usize,
    /// Adjudicators.
    pub adjudicators: usize,
    /// Storage nodes.
    pub storages: usize,
    /// Query processors.
    pub queries: usize,
    /// Routers.
    pub routers: usize,
    /// Key ranges, see [`key_in`](crate::key_in).
    pub ranges: usize,
    /// Whether the processes publish metrics.
    pub metrics: bool,
    /// What the storage nodes keep their versions in, where it is not their own choice.
    pub engine: Option<&'static str>,
}

impl Default for Layout {
    /// The cluster of `deploy/local`, with a second router.
    fn default() -> Self {
        Self {
            journals: 3,
            adjudicators: 2,
            storages: 2,
            queries: 2,
            routers: 2,
            ranges: 1,
            metrics: false,
            engine: None,
        }
    }
}

impl Layout {
    /// Four adjudicators for so many ranges, and one of each of the services that clients need: when one adjudicator is stuck, what
    /// goes on does so without its ranges.
    pub fn four_adjudicators(ranges: usize) -> Self {
        Self {
            adjudicators: 4,
            storages: 1,
            queries: 1,
            routers: 1,
            ranges,
            ..Self::default()
        }
    }
}

/// How many nodes of each role there are in each of the two active regions. Each is a process of its own; the witness has one journal
/// node, and each active region one as well.
#[derive(Clone, Copy, Debug)]
pub struct RegionLayout {
    /// Key ranges: the n-th one, counted from 0, holds the keys that begin with `n/`. Even ones prefer region `a`, odd ones `b`.
    /// At most 10.
    pub ranges: usize,
    /// Adjudicators.
    pub adjudicators: usize,
    /// Storage nodes.
    pub storages: usize,
    /// Query processors.
    pub queries: usize,
    /// Routers.
    pub routers: usize,
    /// `max_connection_age_ms` of the routers; theirs when it is `None`.
    pub connection_age_ms: Option<u64>,
}

impl Default for RegionLayout {
    fn default() -> Self {
        Self {
            ranges: 4,
            adjudicators: 1,
            storages: 1,
            queries: 1,
            routers: 1,
            connection_age_ms: None,
        }
    }
}

/// The region that a range prefers in a [`RegionLayout`].
pub fn preferred(range: usize) -> &'static str {
    if range.is_multiple_of(2) { "a" } else { "b" }
}

/// One process.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) role: &'static str,
    pub(crate) address: String,
    /// Where its metrics are.
    pub(crate) metrics: Option<String>,
}

/// A configuration and its nodes.
pub(crate) struct Configured {
    pub(crate) text: String,
    pub(crate) nodes: Vec<Node>,
}

pub(crate) fn one_region(directory: &Path, layout: Layout) -> Configured {
    let roles = [
        ("journal", layout.journals),
        ("adjudicator", layout.adjudicators),
        ("storage", layout.storages),
        ("query", layout.queries),
        ("router", layout.routers),
    ];
    let wanted = roles.into_iter().flat_map(|(role, count)| {
        (1..=count).map(move |number| (format!("{role}-{number}"), String::new(), role))
    });
    let mut text = "[cluster]\n".to_owned();
    for start in (0..layout.ranges).map(|range| {
        if range == 0 {
            String::new()
        } else {
            crate::key_in(range)
        }
    }) {
        write!(text, "[[cluster.range]]\nstart = \"{start}\"\n").expect("a string");
    }
    let storage = layout.engine.map(|engine| format!("engine = \"{engine}\""));
    let settings = storage.map(|setting| ("storage", setting));
    configured(directory, text, wanted, layout.metrics, settings)
}

pub(crate) fn regions(directory: &Path, layout: RegionLayout) -> Configured {
    let mut text = "[cluster]\n".to_owned();
    for (region, kind) in [("a", "active"), ("b", "active"), ("w", "witness")] {
        write!(
            text,
            "[[cluster.region]]\nname = \"{region}\"\nkind = \"{kind}\"\n"
        )
        .expect("a string");
    }
    for range in 0..layout.ranges {
        let start = if range == 0 {
            String::new()
        } else {
            format!("{range}/")
        };
        let region = preferred(range);
        write!(
            text,
            "[[cluster.range]]\nstart = \"{start}\"\nregion = \"{region}\"\n"
        )
        .expect("a string");
    }
    let roles = [
        ("journal", 1),
        ("adjudicator", layout.adjudicators),
        ("storage", layout.storages),
        ("query", layout.queries),
        ("router", layout.routers),
    ];
    let active = ["a", "b"].into_iter().flat_map(|region| {
        let nodes = roles
            .into_iter()
            .flat_map(|(role, count)| (1..=count).map(move |number| (role, number)));
        nodes.map(move |(role, number)| (format!("{role}-{region}{number}"), region.to_owned(), role))
    });
    let witness = ("journal-w1".to_owned(), "w".to_owned(), "journal");
    let nodes = active.chain([witness]);
    let age = layout.connection_age_ms;
    let settings = age.map(|age| ("router", format!("max_connection_age_ms = {age}")));
    configured(directory, text, nodes, false, settings)
}

/// The nodes, each with an address of its own on loopback. No region is named where it is empty. `settings` are a role's.
fn configured(
    directory: &Path,
    mut text: String,
    wanted: impl Iterator<Item = (String, String, &'static str)>,
    has_metrics: bool,
    settings: Option<(&'static str, String)>,
) -> Configured {
    let (mut nodes, mut sockets) = (Vec::new(), Vec::new());
    for (name, region, role) in wanted {
        // All sockets stay bound until every port is chosen, so that no port is chosen twice.
        let mut free_address = || {
            let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = socket.local_addr().expect("its address").to_string();
            sockets.push(socket);
            address
        };
        let address = free_address();
        let metrics = has_metrics.then(free_address);
        let node = Node {
            name,
            region,
            role,
            address,
            metrics,
        };
        text.push_str(&section(directory, &node));
        if let Some((whose, setting)) = &settings
            && *whose == role
        {
            writeln!(text, "settings = {{ {role} = {{ {setting} }} }}").expect("a string");
        }
        nodes.push(node);
    }
    Configured { text, nodes }
}

/// What the configuration says of a node.
pub(crate) fn section(directory: &Path, node: &Node) -> String {
    let Node {
        name,
        region,
        role,
        address,
        metrics,
    } = node;
    let data = directory.join(name);
    let data = data.display();
    let mut text = format!(
        "\n[[node]]\nname = \"{name}\"\naddress = \"{address}\"\nroles = [\"{role}\"]\ndata_dir = \"{data}\"\nclock = {{ source = \"fixed\", bound_us = 50 }}\n",
    );
    if !region.is_empty() {
        writeln!(text, "region = \"{region}\"").expect("a string");
    }
    if let Some(metrics) = metrics {
        writeln!(text, "metrics = \"{metrics}\"").expect("a string");
    }
    text
}
