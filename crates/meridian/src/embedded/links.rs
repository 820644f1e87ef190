//! The links between the regions of an embedded cluster: how long a message takes, and whether it arrives.
//!
//! A link has one direction. What is sent over a link that is cut is not lost but held back, as TCP would: it arrives when the link is
//! healed, unless the connection was given up before.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::timer::Timer;
use crate::error::Error;

/// The longest delay, one way. With a longer one leases would have to be longer than anybody wants.
const MAX_DELAY: Duration = Duration::from_millis(500);
/// One way, where nothing else is said.
pub const DEFAULT_DELAY: Duration = Duration::from_millis(20);

/// From one region to another one.
pub(super) type Direction = (String, String);

/// Regions, one or both directions: `a-b` is both, `a>b` the one from a to b.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// From here.
    pub from: String,
    /// To there.
    pub to: String,
    /// And back.
    pub both_ways: bool,
}

impl Between {
    /// Reads `a-b` or `a>b`; `None` when it is neither. Whether there are such regions is not looked at.
    pub fn parse(text: &str) -> Option<Self> {
        let one_way = text.split_once('>').map(|ends| (ends, false));
        let ((from, to), both_ways) = one_way.or_else(|| Some((text.split_once('-')?, true)))?;
        let fits = !from.is_empty() && !to.is_empty() && from != to;
        fits.then(|| Self {
            from: from.to_owned(),
            to: to.to_owned(),
            both_ways,
        })
    }

    /// Its directions.
    pub fn directions(&self) -> Vec<(String, String)> {
        let there = (self.from.clone(), self.to.clone());
        let back = (self.to.clone(), self.from.clone());
        if self.both_ways {
            vec![there, back]
        } else {
            vec![there]
        }
    }
}

/// How long messages take between two regions, one way: `a-b=30ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Between which regions.
    pub between: Between,
    /// One way; a round trip takes twice as long. Kept to within a few tenths of a millisecond.
    pub one_way: Duration,
}

impl std::str::FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("{text:?} is not a delay between regions, like a-b=30ms (or a>b=30ms: that way only)");
        let (between, delay) = text.split_once('=').ok_or_else(malformed)?;
        let millis: f64 = delay
            .strip_suffix("ms")
            .and_then(|number| number.parse().ok())
            .ok_or_else(malformed)?;
        let one_way = Duration::try_from_secs_f64(millis / 1e3).map_err(|_| malformed())?;
        if one_way > MAX_DELAY {
            return Err(format!("{text}: at most {MAX_DELAY:?} one way"));
        }
        Ok(Self {
            between: Between::parse(between).ok_or_else(malformed)?,
            one_way,
        })
    }
}

/// One link as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// One way.
    pub delay: Duration,
    /// Nothing arrives.
    pub is_cut: bool,
}

/// All links. Clones share them.
#[derive(Clone)]
pub(super) struct Links {
    state: watch::Sender<BTreeMap<Direction, Link>>,
    timer: Timer,
}

impl Links {
    /// Links between all of the regions, whole.
    pub(super) fn new(regions: &[String], delays: &[Delay]) -> Result<Self, Error> {
        let mut links = BTreeMap::new();
        for from in regions {
            for to in regions.iter().filter(|to| *to != from) {
                let link = Link {
                    delay: DEFAULT_DELAY,
                    is_cut: false,
                };
                links.insert((from.clone(), to.clone()), link);
            }
        }
        for delay in delays {
            for direction in delay.between.directions() {
                let link = links
                    .get_mut(&direction)
                    .ok_or_else(|| no_link(&direction, regions))?;
                link.delay = delay.one_way;
            }
        }
        Ok(Self {
            state: watch::Sender::new(links),
            timer: Timer::start()
                .map_err(|error| Error::Usage(format!("no thread for the links between regions: {error}")))?,
        })
    }

    pub(super) fn all(&self) -> BTreeMap<Direction, Link> {
        self.state.borrow().clone()
    }

    /// The longest delay of all.
    pub(super) fn longest(&self) -> Duration {
        let links = self.state.borrow();
        links.values().map(|link| link.delay).max().unwrap_or_default()
    }

    /// Cuts the links, or heals them.
    pub(super) fn set(&self, is_affected: impl Fn(&Direction) -> bool, is_cut: bool) {
        self.state.send_modify(|links| {
            for (_, link) in links.iter_mut().filter(|(direction, _)| is_affected(direction)) {
                link.is_cut = is_cut;
            }
        });
    }

    /// The way from one region to another one. `is_subject`: it is cut with the link.
    pub(super) fn way(&self, from: &str, to: &str, is_subject: bool) -> Way {
        Way {
            direction: (from.to_owned(), to.to_owned()),
            is_subject,
            state: self.state.subscribe(),
            timer: self.timer.clone(),
        }
    }
}

fn no_link((from, to): &Direction, regions: &[String]) -> Error {
    Error::Usage(format!(
        "there is no link from region {from:?} to region {to:?}; the regions are {}",
        regions.join(", ")
    ))
}

/// One link as those see it who send over it.
#[derive(Clone)]
pub(super) struct Way {
    direction: Direction,
    is_subject: bool,
    state: watch::Receiver<BTreeMap<Direction, Link>>,
    timer: Timer,
}

impl Way {
    /// When what is sent now arrives.
    pub(super) fn due(&self) -> Instant {
        let delay = self.state.borrow().get(&self.direction).map(|link| link.delay);
        Instant::now() + delay.unwrap_or_default()
    }

    /// Waits for the time, and for the link to be whole.
    pub(super) async fn arrival(&mut self, due: Instant) {
        self.timer.at(due.into_std()).await;
        let direction = &self.direction;
        let is_whole =
            |links: &BTreeMap<Direction, Link>| links.get(direction).is_none_or(|link| !link.is_cut);
        if self.is_subject {
            // The links are gone with the cluster: then nothing arrives any more, which is as well.
            let _ = self.state.wait_for(is_whole).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_read_and_those_of_unknown_regions_refused() {
        let delay: Delay = "a-b=30ms".parse().unwrap();
        assert_eq!(delay.one_way, Duration::from_millis(30));
        assert!(delay.between.both_ways);
        let back: Delay = "b>a=1.5ms".parse().unwrap();
        let regions = ["a".to_owned(), "b".to_owned(), "w".to_owned()];
        let links = Links::new(&regions, &[delay, back]).unwrap().all();
        let of = |from: &str, to: &str| links[&(from.to_owned(), to.to_owned())].delay;
        assert_eq!(of("a", "b"), Duration::from_millis(30));
        assert_eq!(of("b", "a"), Duration::from_micros(1_500));
        assert_eq!(of("w", "a"), DEFAULT_DELAY);
        for malformed in [
            "a-b",
            "a-b=30",
            "a-a=1ms",
            "-b=1ms",
            "a-b=-1ms",
            "a-b=9000ms",
            "ab=1ms",
        ] {
            assert!(malformed.parse::<Delay>().is_err(), "{malformed}");
        }
        let unknown = "a-c=1ms".parse::<Delay>().unwrap();
        assert!(Links::new(&regions, &[unknown]).is_err());
    }
}
