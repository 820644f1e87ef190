//! Where the time of one transaction went, as a table or for programs.

use std::io;

use meridian_client::{Hop, HopKind, Trace};
use serde_json::{Map, Value, json};

use crate::output::{Format, Printer};

/// Prints the hops in the order of time, parts below their whole.
pub fn print(printer: &mut Printer, trace: &Trace) -> io::Result<()> {
    match printer.format() {
        Format::Json => printer.object(object(trace)),
        Format::Csv => {
            let header = [
                "hop",
                "depth",
                "beside",
                "duration_us",
                "node",
                "region",
                "stream",
                "by",
            ];
            let rows: Vec<Vec<String>> = trace.hops.iter().map(record).collect();
            printer.columns(None, &header, &rows)
        }
        Format::Table => {
            let rows: Vec<Vec<String>> = trace.hops.iter().map(row).collect();
            printer.columns(None, &["hop", "ms", "what it waited for"], &rows)?;
            match trace.left_out {
                0 => Ok(()),
                more => printer.text(&format!("{more} more hops were left out")),
            }
        }
    }
}

/// The stable name of a hop.
fn name(hop: &Hop) -> String {
    hop.kind().as_str_name().to_ascii_lowercase()
}

fn row(hop: &Hop) -> Vec<String> {
    let indent = "  ".repeat(usize::try_from(hop.depth).unwrap_or_default().min(8));
    // What runs beside others does not add up with them.
    let mark = if hop.beside { "| " } else { "" };
    vec![
        format!("{indent}{mark}{}", name(hop).replace('_', " ")),
        milliseconds(hop.duration_us),
        sentence(hop),
    ]
}

/// With the microseconds; right-aligned, for less than a thousand seconds.
fn milliseconds(us: u64) -> String {
    format!("{:>6}.{:03}", us / 1_000, us % 1_000)
}

fn record(hop: &Hop) -> Vec<String> {
    vec![
        name(hop),
        hop.depth.to_string(),
        hop.beside.to_string(),
        hop.duration_us.to_string(),
        hop.node.clone(),
        hop.region.clone(),
        hop.stream.to_string(),
        hop.by.join(" "),
    ]
}

fn object(trace: &Trace) -> Map<String, Value> {
    let hops: Vec<Value> = trace
        .hops
        .iter()
        .map(|hop| {
            json!({
                "hop": name(hop),
                "depth": hop.depth,
                "beside": hop.beside,
                "duration_us": hop.duration_us,
                "node": hop.node,
                "region": hop.region,
                "stream": hop.stream,
                "by": hop.by,
                "what": sentence(hop),
            })
        })
        .collect();
    let trace = json!({ "hops": hops, "left_out": trace.left_out });
    Map::from_iter([("trace".to_owned(), trace)])
}

/// What the hop waits for, in a few words.
fn sentence(hop: &Hop) -> String {
    let place = match hop.region.as_str() {
        "" => hop.node.clone(),
        region => format!("{} in region {region}", hop.node),
    };
    let stream = hop.stream;
    match hop.kind() {
        HopKind::Call => "from asking the router to its answer, as measured here".to_owned(),
        HopKind::Network => "the ways there and back: what nobody else measured of the hop above".to_owned(),
        HopKind::Get => "the query processor: reading keys".to_owned(),
        HopKind::ScanPage => "the query processor: reading a page of a scan".to_owned(),
        HopKind::Commit => "the query processor: committing".to_owned(),
        HopKind::Snapshot => "the choice of the snapshot".to_owned(),
        HopKind::Storage => format!("a read at {place}"),
        HopKind::ClosedWait => "the range to be closed through the snapshot (R5)".to_owned(),
        HopKind::Evaluate => "the keys to be looked up".to_owned(),
        HopKind::UncertaintyWait => "what was found to be surely in the past (R4)".to_owned(),
        HopKind::Plan => "the writes to be encoded, and grouped by range".to_owned(),
        HopKind::FindOwners => "the owners of the ranges to be known".to_owned(),
        HopKind::Home => format!("the decision on stream {stream}, the home, by {place}"),
        HopKind::Queue => "its turn in the owner's queue".to_owned(),
        HopKind::Decide => "the owner to check and decide".to_owned(),
        HopKind::Votes => "the votes of all other ranges".to_owned(),
        HopKind::Vote => format!("the vote of stream {stream} from {place} to be at the home"),
        HopKind::Journal => match hop.by.as_slice() {
            [] => "a quorum of the journal to have the record".to_owned(),
            by => format!("a quorum of the journal to have the record: {}", by.join(", ")),
        },
        HopKind::Learn => format!("word that the record is durable, from {}", hop.by.join(", ")),
        HopKind::Prepare => format!("the answer of {place} to the question for the vote of stream {stream}"),
        HopKind::CommitWait => "the commit's timestamp to be surely in the past (R3)".to_owned(),
        HopKind::Collect => "the measurements of the home's owner: because of the trace only".to_owned(),
        HopKind::Retry => "another try, after one that was refused or lost".to_owned(),
        HopKind::Unspecified => "something that this program does not know".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(kind: HopKind, depth: u32, duration_us: u64) -> Hop {
        Hop {
            kind: kind.into(),
            depth,
            duration_us,
            ..Hop::default()
        }
    }

    #[test]
    fn parts_stand_below_their_whole_with_microseconds() {
        assert_eq!(
            row(&hop(HopKind::Call, 0, 12_345_678))[..2],
            ["call", " 12345.678"]
        );
        let vote = Hop {
            node: "adj-b".to_owned(),
            region: "b".to_owned(),
            stream: 2,
            beside: true,
            ..hop(HopKind::Vote, 3, 7)
        };
        assert_eq!(
            row(&vote),
            [
                "      | vote",
                "     0.007",
                "the vote of stream 2 from adj-b in region b to be at the home"
            ]
        );
    }

    #[test]
    fn every_kind_has_words_of_its_own_and_a_stable_name() {
        let kinds: Vec<HopKind> = (0..).map_while(|kind| HopKind::try_from(kind).ok()).collect();
        assert!(kinds.len() > 20);
        let words: std::collections::BTreeSet<String> =
            kinds.iter().map(|kind| sentence(&hop(*kind, 0, 0))).collect();
        assert_eq!(words.len(), kinds.len());
        assert_eq!(name(&hop(HopKind::CommitWait, 0, 0)), "commit_wait");
    }
}
