//! Figures told by role, and how they grow.

use meridian::config::Role;
use serde::Serialize;

/// A figure for the nodes of each role together, and for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ByRole {
    /// All nodes.
    pub total: f64,
    /// The three journal nodes.
    pub journal: f64,
    /// Adjudicators.
    pub adjudicator: f64,
    /// Storage nodes.
    pub storage: f64,
    /// Query processors.
    pub query: f64,
    /// The router.
    pub router: f64,
}

impl ByRole {
    /// From the figure of each role.
    pub fn new(of: impl Fn(Role) -> f64) -> Self {
        Self {
            total: Role::ALL.into_iter().map(&of).sum(),
            journal: of(Role::Journal),
            adjudicator: of(Role::Adjudicator),
            storage: of(Role::Storage),
            query: of(Role::Query),
            router: of(Role::Router),
        }
    }

    /// That of one role.
    pub fn of(&self, role: Role) -> f64 {
        match role {
            Role::Journal => self.journal,
            Role::Adjudicator => self.adjudicator,
            Role::Storage => self.storage,
            Role::Query => self.query,
            Role::Router => self.router,
        }
    }

    /// Without those.
    pub fn minus(&self, others: &Self) -> Self {
        Self::new(|role| self.of(role) - others.of(role))
    }

    /// Each so many times.
    pub fn times(&self, factor: f64) -> Self {
        Self::new(|role| self.of(role) * factor)
    }

    /// Each rounded to so many parts of one.
    pub fn rounded(&self, parts: f64) -> Self {
        let rounded = |figure: f64| (figure * parts).round() / parts;
        Self {
            total: rounded(self.total),
            ..Self::new(|role| rounded(self.of(role)))
        }
    }
}

/// By how much each figure rises when the first number rises by one: the line that lies nearest to all points. `None` when they all
/// have the same first number.
pub fn slopes(points: &[(f64, ByRole)]) -> Option<ByRole> {
    let slope_of = |role| {
        slope(
            &points
                .iter()
                .map(|(x, figures)| (*x, figures.of(role)))
                .collect::<Vec<_>>(),
        )
    };
    slope_of(Role::Journal)?;
    Some(ByRole::new(|role| slope_of(role).unwrap_or_default()))
}

/// Of the least squares.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let joint: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (spread > 0.0).then(|| joint / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_the_nearest_line() {
        assert_eq!(slope(&[(1.0, 5.0), (2.0, 7.0), (3.0, 9.0)]), Some(2.0));
        // One point too high and one too low, on either side of the middle.
        assert_eq!(
            slope(&[(0.0, 1.0), (1.0, 0.0), (2.0, 3.0), (3.0, 2.0)]),
            Some(0.6)
        );
        assert_eq!(slope(&[(1.0, 5.0), (1.0, 6.0)]), None);
        assert_eq!(slope(&[]), None);
    }

    #[test]
    fn figures_add_up_by_role() {
        let figures = ByRole::new(|role| if role == Role::Journal { 3.0 } else { 1.0 });
        assert_eq!((figures.total, figures.journal, figures.router), (7.0, 3.0, 1.0));
        let less = figures.minus(&ByRole::new(|_| 1.0));
        assert_eq!((less.total, less.journal, less.query), (2.0, 2.0, 0.0));
        assert_eq!(figures.times(0.5).total, 3.5);
        assert_eq!(figures.times(1.0 / 3.0).rounded(10.0).storage, 0.3);
        let points = [(1.0, figures), (3.0, figures.times(3.0))];
        assert_eq!(slopes(&points), Some(figures));
        assert_eq!(slopes(&points[..1]), None);
    }
}
