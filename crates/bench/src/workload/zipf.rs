//! The zipfian distribution, computed as YCSB does (Gray et al., "Quickly generating billion-record synthetic databases").

use rand::Rng;

/// Ranks from 0, of which the one at place `k` is drawn in proportion to `1 / (k + 1)^theta`.
#[derive(Clone, Copy, Debug)]
pub struct Zipfian {
    count: u64,
    theta: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// A distribution over so many ranks (at least one). `theta` lies between 0 (uniform) and 1, both exclusive. The cost is in
    /// proportion to the count: make one and copy it.
    pub fn new(count: u64, theta: f64) -> Self {
        let count = count.max(1);
        let zeta_of = |ranks: u64| (1..=ranks).map(|rank| (rank as f64).powf(-theta)).sum::<f64>();
        let zeta = zeta_of(count);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - theta)) / (1.0 - zeta_of(2) / zeta);
        Self {
            count,
            theta,
            alpha: 1.0 / (1.0 - theta),
            zeta,
            eta,
        }
    }

    /// Draws a rank.
    pub fn draw(&self, random: &mut impl Rng) -> u64 {
        let uniform: f64 = random.random();
        let scaled = uniform * self.zeta;
        if scaled < 1.0 || self.count == 1 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(self.theta) {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * uniform - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const COUNT: u64 = 1_000;
    const DRAWS: u32 = 400_000;

    fn drawn(theta: f64) -> Vec<f64> {
        let zipfian = Zipfian::new(COUNT, theta);
        let mut random = StdRng::seed_from_u64(1);
        let mut counts = vec![0.0; COUNT as usize];
        for _ in 0..DRAWS {
            counts[zipfian.draw(&mut random) as usize] += 1.0 / f64::from(DRAWS);
        }
        counts
    }

    /// The shares of the first ranks and of whole decades are those of the definition. (The method is exact for the first two ranks
    /// and within a few percent behind them.)
    #[test]
    fn shares_are_those_of_the_definition() {
        let shares = drawn(0.99);
        let weight = |rank: usize| (rank as f64 + 1.0).powf(-0.99);
        let zeta: f64 = (0..COUNT as usize).map(weight).sum();
        for (range, tolerance) in [
            (0..1, 0.02),
            (1..2, 0.03),
            (0..10, 0.06),
            (10..100, 0.05),
            (100..1_000, 0.05),
        ] {
            let expected = range.clone().map(weight).sum::<f64>() / zeta;
            let found: f64 = shares[range.clone()].iter().sum();
            let error = (found / expected - 1.0).abs();
            assert!(error < tolerance, "{range:?}: {found} instead of {expected}");
        }
    }

    #[test]
    fn every_rank_is_drawn_and_none_beyond() {
        assert!(drawn(0.99).iter().all(|share| *share > 0.0));
        let one = Zipfian::new(1, 0.99);
        let mut random = StdRng::seed_from_u64(1);
        assert!((0..1_000).all(|_| one.draw(&mut random) == 0));
    }
}
