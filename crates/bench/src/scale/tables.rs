//! Results for people.

use super::Line;
use super::figures::ByRole;
use super::growth::Growth;
use super::memory::{Memory, MemoryPer};
use super::recovery::Recovery;
use crate::report::rows_of;

const ROLES: [&str; 6] = ["all", "journal", "adjudicator", "storage", "query", "router"];

/// Results of one kind, with what follows from them.
pub fn table(lines: &[Line]) -> String {
    let rows = lines.iter().map(row);
    match lines.first() {
        None => String::new(),
        Some(Line::Growth(_)) => {
            let first = [
                "ranges", "adj.", "stor.", "query p.", "workload", "ops/s", "p50 ms", "p99 ms", "errors",
            ];
            titled(
                "Processor time of servers, us per operation",
                rows_of(&with_roles(&first), 0, rows),
            )
        }
        Some(Line::Idle(_) | Line::IdleRange(_)) => titled(
            "Idle: processor time, ms per second, and memory of all servers, MB",
            rows_of(&with_roles(&["ranges", "rss MB"]), 1, rows),
        ),
        Some(Line::Memory(_) | Line::MemoryPerMillionKeys(_)) => {
            titled("Memory of servers, MB", rows_of(&with_roles(&["keys"]), 1, rows))
        }
        Some(Line::Transactions(_) | Line::MemoryPerThousandTransactions(_)) => titled(
            "Memory of servers, MB",
            rows_of(&with_roles(&["open transactions"]), 1, rows),
        ),
        Some(Line::Recovery(_)) => {
            let header = [
                "log MB",
                "killed: read again s",
                "written again s",
                "disk lost: read again s",
            ];
            titled("Recovery", rows_of(&header, 0, rows))
        }
    }
}

fn titled(title: &str, table: String) -> String {
    format!("{title}\n{table}\n")
}

fn with_roles(first: &[&'static str]) -> Vec<&'static str> {
    first.iter().copied().chain(ROLES).collect()
}

fn row(line: &Line) -> Vec<String> {
    match line {
        Line::Growth(growth) => of_growth(growth),
        Line::Idle(idle) => {
            let first = vec![idle.ranges.to_string(), format!("{:.1}", idle.rss_mb.total)];
            with_figures(first, &idle.cpu_ms_per_s, 2)
        }
        Line::IdleRange(more) => {
            let first = vec![
                "one more costs".to_owned(),
                format!("{:.3}", more.rss_kb.total / 1024.0),
            ];
            with_figures(first, &more.cpu_us_per_s.times(1e-3), 3)
        }
        Line::Memory(Memory { count, rss_mb }) => with_figures(vec![count.to_string()], rss_mb, 1),
        Line::Transactions(Memory { count, rss_mb }) => with_figures(vec![count.to_string()], rss_mb, 2),
        Line::MemoryPerMillionKeys(MemoryPer { rss_mb }) => {
            with_figures(vec!["a million more cost".to_owned()], rss_mb, 1)
        }
        Line::MemoryPerThousandTransactions(MemoryPer { rss_mb }) => {
            with_figures(vec!["a thousand more cost".to_owned()], rss_mb, 2)
        }
        Line::Recovery(recovery) => of_recovery(recovery),
    }
}

fn of_growth(growth: &Growth) -> Vec<String> {
    let mut row = vec![
        growth.ranges.to_string(),
        growth.adjudicators.to_string(),
        growth.storage_nodes.to_string(),
        growth.query_processors.to_string(),
        growth.workload.to_owned(),
        format!("{:.0}", growth.ops_per_s),
        format!("{:.2}", growth.p50_ms),
        format!("{:.2}", growth.p99_ms),
        growth.errors.to_string(),
    ];
    row.extend(figures(&growth.cpu_us_per_op, 0));
    row
}

fn of_recovery(recovery: &Recovery) -> Vec<String> {
    let seconds =
        |time: Option<f64>| time.map_or_else(|| "not in 60".to_owned(), |time| format!("{time:.2}"));
    vec![
        recovery.log_mb.to_string(),
        seconds(recovery.read_s),
        seconds(recovery.written_s),
        seconds(recovery.rebuilt_s),
    ]
}

fn with_figures(first: Vec<String>, by_role: &ByRole, digits: usize) -> Vec<String> {
    first.into_iter().chain(figures(by_role, digits)).collect()
}

fn figures(by_role: &ByRole, digits: usize) -> Vec<String> {
    let each = [
        by_role.total,
        by_role.journal,
        by_role.adjudicator,
        by_role.storage,
        by_role.query,
        by_role.router,
    ];
    each.iter().map(|figure| format!("{figure:.digits$}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::growth::{Idle, IdleRange};
    use super::*;
    use crate::report::line;

    fn one() -> ByRole {
        ByRole::new(|_| 1.0)
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let growth = Growth {
            ranges: 4,
            adjudicators: 1,
            storage_nodes: 1,
            query_processors: 1,
            workload: "put",
            ops_per_s: 300.0,
            p50_ms: 2.0,
            p99_ms: 3.0,
            errors: 0,
            cpu_us_per_op: one(),
        };
        let idle = Idle {
            ranges: 4,
            cpu_ms_per_s: one(),
            rss_mb: one(),
        };
        let more = IdleRange {
            cpu_us_per_s: one(),
            rss_kb: one(),
        };
        let memory = Memory {
            count: 7,
            rss_mb: one(),
        };
        let recovery = Recovery {
            log_mb: 16,
            read_s: Some(1.0),
            written_s: None,
            rebuilt_s: Some(2.0),
        };
        let parts = [
            vec![Line::Growth(growth)],
            vec![Line::Idle(idle), Line::IdleRange(more)],
            vec![
                Line::Memory(memory.clone()),
                Line::MemoryPerMillionKeys(MemoryPer { rss_mb: one() }),
            ],
            vec![Line::Transactions(memory)],
            vec![Line::Recovery(recovery)],
        ];
        for lines in parts {
            let text = table(&lines);
            // The title, the header, and the lines.
            assert_eq!(text.trim_end().lines().count(), lines.len() + 2, "{text}");
        }
        assert_eq!(table(&[]), "");
    }

    /// Whoever reads this form relies on every name in it.
    #[test]
    fn a_line_of_json_says_what_was_measured() {
        let memory = Memory {
            count: 7,
            rss_mb: one(),
        };
        let expected = concat!(
            r#"{"measurement":"transactions","count":7,"rss_mb":{"total":5.0,"journal":1.0,"adjudicator":1.0,"#,
            r#""storage":1.0,"query":1.0,"router":1.0}}"#
        );
        assert_eq!(line(&Line::Transactions(memory)), expected);
    }
}
