//! `status --watch`: the status again and again.

use std::io::{self, IsTerminal};
use std::time::Duration;

use meridian_client::Client;

use crate::failure::Failure;
use crate::output::{Format, Printer};
use crate::shell::remark;
use crate::status::print_status;

/// Clears the terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Prints the status every so often, until it cannot be printed any more. That the cluster does not answer is shown as well.
pub async fn watch(client: &Client, every: Duration, printer: &mut Printer) -> Result<(), Failure> {
    let clears = printer.format() == Format::Table && io::stdout().is_terminal();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let status = client.cluster_status().await;
        if clears {
            printer.text(CLEAR)?;
        }
        match status {
            Ok(status) => print_status(printer, status)?,
            Err(error) => remark(&Failure::from(error).to_string()),
        }
    }
}
