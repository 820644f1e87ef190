//! One object per line.

use serde::Serialize;

/// A result as a line of JSON.
pub fn line(result: &impl Serialize) -> String {
    match serde_json::to_string(result) {
        Ok(text) => text,
        Err(error) => unreachable!("plain fields: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Report;
    use super::*;

    fn report() -> Report {
        Report {
            system: "meridian",
            workload: "txn",
            clients: 16,
            region: None,
            ops_per_s: 1_234.5,
            p50_ms: 1.0,
            p95_ms: 2.0,
            p99_ms: 3.0,
            p999_ms: 4.0,
            aborts_per_commit: Some(0.25),
            errors: 0,
            server_cpu_us_per_op: Some(50.0),
            client_cpu_us_per_op: 25.0,
            rss_mb: Some(100.5),
            rate: None,
            distribution: vec![(0.5, 1.0)],
        }
    }

    /// Whoever reads this form relies on every name in it.
    #[test]
    fn fields_have_these_names_in_this_order() {
        let expected = concat!(
            r#"{"system":"meridian","workload":"txn","clients":16,"region":null,"ops_per_s":1234.5,"#,
            r#""p50_ms":1.0,"p95_ms":2.0,"p99_ms":3.0,"p999_ms":4.0,"aborts_per_commit":0.25,"errors":0,"#,
            r#""server_cpu_us_per_op":50.0,"client_cpu_us_per_op":25.0,"rss_mb":100.5}"#
        );
        assert_eq!(line(&report()), expected);
        let open = Report {
            region: Some("a"),
            rate: Some(100.0),
            server_cpu_us_per_op: None,
            ..report()
        };
        let open = line(&open);
        assert!(
            open.contains(r#""region":"a""#) && open.contains(r#""rate":100.0"#),
            "{open}"
        );
        assert!(open.contains(r#""server_cpu_us_per_op":null"#), "{open}");
    }
}
