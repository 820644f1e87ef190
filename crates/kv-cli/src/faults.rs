//! `fault`: how the links and nodes of a cluster in one process are.

use std::io;

use meridian_client::proto::FaultReport;
use serde_json::{Value, json};

use crate::output::{Format, Printer};

/// Prints the links, and the nodes that are down (as JSON: all nodes).
pub fn print(printer: &mut Printer, report: &FaultReport) -> io::Result<()> {
    if printer.format() == Format::Json {
        return print_json(printer, report);
    }
    let links: Vec<Vec<String>> = report
        .links
        .iter()
        .map(|link| {
            let state = if link.cut { "CUT" } else { "whole" };
            let delay = format!("{:.1} ms", link.delay_ns as f64 / 1e6);
            vec![format!("{}>{}", link.from, link.to), delay, state.to_owned()]
        })
        .collect();
    printer.columns(None, &["link", "one way", "state"], &links)?;
    let down: Vec<Vec<String>> = report
        .nodes
        .iter()
        .filter(|node| !node.running)
        .map(|node| vec![node.node.clone(), node.region.clone()])
        .collect();
    if down.is_empty() || printer.format() == Format::Csv {
        return Ok(());
    }
    printer.columns(Some("\ndown"), &["node", "region"], &down)
}

fn print_json(printer: &mut Printer, report: &FaultReport) -> io::Result<()> {
    let links = report
        .links
        .iter()
        .map(|link| json!({ "from": link.from, "to": link.to, "delay_ns": link.delay_ns, "cut": link.cut }));
    let nodes = report
        .nodes
        .iter()
        .map(|node| json!({ "node": node.node, "region": node.region, "running": node.running }));
    for value in links.chain(nodes) {
        if let Value::Object(object) = value {
            printer.object(object)?;
        }
    }
    Ok(())
}
