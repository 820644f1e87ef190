//! What operations may cost, and whether they cost more. Pure.

use std::fmt;

use serde::Deserialize;

/// Where the budgets stand.
pub const PLACE: &str = "e2e/examples/allocations/budgets.toml";

/// What an operation costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Calls of the allocator that hand out memory, or make it larger or smaller.
    pub allocations: f64,
    /// What it handed out.
    pub bytes: f64,
}

impl Figures {
    /// Without those.
    pub fn minus(self, others: Self) -> Self {
        Self {
            allocations: self.allocations - others.allocations,
            bytes: self.bytes - others.bytes,
        }
    }

    /// Those of one of so many.
    pub fn per(self, count: usize) -> Self {
        Self {
            allocations: self.allocations / count as f64,
            bytes: self.bytes / count as f64,
        }
    }
}

/// The lower quartile of each figure by itself; nothing when there are none. What goes on beside an operation adds to it more often than
/// it takes away, so on a machine that has much else to do the middle is too high.
pub fn lower_quartile(all: &[Figures]) -> Figures {
    let quartile = |figure: fn(&Figures) -> f64| {
        let mut sorted: Vec<f64> = all.iter().map(figure).collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 4).copied().unwrap_or_default()
    };
    Figures {
        allocations: quartile(|figures| figures.allocations),
        bytes: quartile(|figures| figures.bytes),
    }
}

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// A figure may be so much above what is recorded.
    margin_percent: f64,
    put: Figures,
    get: Figures,
    txn: Figures,
}

/// What is to be said of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Above what is recorded and the margin.
    Above,
    /// Below what is recorded by more than the margin: then the budget guards nothing.
    FarBelow,
    /// Neither.
    Within,
}

/// A figure beside what it may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    operation: &'static str,
    figure: &'static str,
    measured: f64,
    recorded: f64,
    budget: f64,
    /// What is to be said of it.
    pub verdict: Verdict,
}

impl Budgets {
    /// Those of this build.
    pub fn recorded() -> Result<Self, toml::de::Error> {
        toml::from_str(include_str!("budgets.toml"))
    }

    /// Puts each figure beside its budget.
    pub fn judge(&self, measured: &[(&'static str, Figures)]) -> Vec<Judgement> {
        let each = measured.iter().flat_map(|(operation, figures)| {
            let recorded = match *operation {
                "put" => self.put,
                "get" => self.get,
                _ => self.txn,
            };
            [
                self.judgement(
                    operation,
                    "allocations",
                    figures.allocations,
                    recorded.allocations,
                ),
                self.judgement(operation, "bytes", figures.bytes, recorded.bytes),
            ]
        });
        each.collect()
    }

    fn judgement(
        &self,
        operation: &'static str,
        figure: &'static str,
        measured: f64,
        recorded: f64,
    ) -> Judgement {
        let margin = recorded * self.margin_percent / 100.0;
        let verdict = if measured > recorded + margin {
            Verdict::Above
        } else if measured < recorded - margin {
            Verdict::FarBelow
        } else {
            Verdict::Within
        };
        Judgement {
            operation,
            figure,
            measured,
            recorded,
            budget: recorded + margin,
            verdict,
        }
    }
}

impl Judgement {
    /// For the table.
    pub fn row(&self) -> [String; 6] {
        [
            self.operation.to_owned(),
            self.figure.to_owned(),
            format!("{:.1}", self.measured),
            format!("{:.1}", self.recorded),
            format!("{:.1}", self.budget),
            match self.verdict {
                Verdict::Above => "ABOVE".to_owned(),
                Verdict::FarBelow => "far below".to_owned(),
                Verdict::Within => "within".to_owned(),
            },
        ]
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} with {:.1} {} per operation (recorded {:.1}, budget {:.1})",
            self.operation, self.measured, self.figure, self.recorded, self.budget
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(allocations: f64, bytes: f64) -> Figures {
        Figures { allocations, bytes }
    }

    #[test]
    fn what_is_recorded_can_be_read() {
        let budgets = Budgets::recorded().unwrap();
        assert!(budgets.margin_percent > 0.0 && budgets.get.allocations < budgets.txn.allocations);
    }

    #[test]
    fn a_figure_is_above_within_or_far_below() {
        let budgets = Budgets {
            margin_percent: 10.0,
            put: figures(100.0, 1_000.0),
            get: figures(50.0, 500.0),
            txn: figures(200.0, 2_000.0),
        };
        let judged = budgets.judge(&[
            ("put", figures(111.0, 1_099.0)),
            ("get", figures(44.0, 460.0)),
            ("txn", figures(180.5, 3_000.0)),
        ]);
        let verdicts: Vec<Verdict> = judged.iter().map(|judgement| judgement.verdict).collect();
        use Verdict::{Above, FarBelow, Within};
        assert_eq!(verdicts, [Above, Within, FarBelow, Within, Within, Above]);
        let said = judged[0].to_string();
        assert_eq!(
            said,
            "put with 111.0 allocations per operation (recorded 100.0, budget 110.0)"
        );
    }

    #[test]
    fn the_quartile_is_not_moved_by_bad_rounds() {
        let rounds = [
            figures(9.0, 2.0),
            figures(10.0, 900.0),
            figures(500.0, 3.0),
            figures(90.0, 1.0),
        ];
        assert_eq!(lower_quartile(&rounds), figures(10.0, 2.0));
        assert_eq!(lower_quartile(&[]), Figures::default());
        let one = figures(30.0, 90.0).minus(figures(10.0, 30.0)).per(2);
        assert_eq!(one, figures(10.0, 30.0));
    }
}
