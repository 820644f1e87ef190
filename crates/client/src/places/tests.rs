use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::*;

const PATIENCE: Duration = Duration::from_millis(500);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

fn held(place: Option<Result<Place, Refused>>) -> Place {
    place.expect("it does not wait").expect("it is not refused")
}

fn refused(place: Option<Result<Place, Refused>>) -> Option<Refused> {
    place.and_then(Result::err)
}

/// Everything is as in the beginning.
fn assert_idle(places: &Places, count: usize) {
    let state = places.lock();
    assert_eq!(
        (state.free, state.begin.len(), state.go_on.len()),
        (count, 0, 0),
        "free, and waiting"
    );
}

/// How one operation fared.
#[derive(Clone, Copy, Debug)]
struct Fared {
    arrived: Duration,
    purpose: Purpose,
    waited: Duration,
    refused: Option<Refused>,
    /// As how many-th it was served.
    turn: usize,
}

/// An operation each `gap`; each that gets one of the places keeps it for `work`. In the order of arrival.
async fn load(places: &Arc<Places>, arrivals: &[(Duration, Purpose)], work: Duration) -> Vec<Fared> {
    let (begin, served) = (Instant::now(), AtomicUsize::new(0));
    let served = &served;
    join_all(arrivals.iter().map(|(arrived, purpose)| async move {
        sleep_until(begin + *arrived).await;
        let place = places.take(*purpose, far()).await;
        let fared = Fared {
            arrived: *arrived,
            purpose: *purpose,
            waited: Instant::now() - begin - *arrived,
            refused: place.as_ref().err().copied(),
            turn: served.fetch_add(usize::from(place.is_ok()), Ordering::Relaxed),
        };
        if place.is_ok() {
            sleep(work).await;
        }
        fared
    }))
    .await
}

fn every(gap: Duration, count: u32) -> Vec<(Duration, Purpose)> {
    (0..count).map(|number| (gap * number, Purpose::Begin)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_served_in_order_and_nobody_is_refused() {
    let places = Places::new(2, PATIENCE);
    // The last one waits for 240 ms.
    let mut burst = every(Duration::ZERO, 50);
    burst
        .iter_mut()
        .step_by(3)
        .for_each(|arrival| arrival.1 = Purpose::GoOn);
    let fared = load(&places, &burst, ms(10)).await;
    let turns: Vec<usize> = fared.iter().map(|fared| fared.turn).collect();
    assert_eq!(turns, (0..50).collect::<Vec<_>>());
    assert!(fared.iter().all(|fared| fared.refused.is_none()));
    assert_idle(&places, 2);
}

/// A load that is just bearable for long: the queue is never empty, but nobody starves.
#[tokio::test(start_paused = true)]
async fn a_queue_that_is_short_in_time_stays_in_order_for_ever() {
    let places = Places::new(1, PATIENCE);
    let mut arrivals = every(Duration::ZERO, 10);
    arrivals.extend(every(ms(10), 2_000));
    let fared = load(&places, &arrivals, ms(10)).await;
    assert!(fared.iter().all(|fared| fared.refused.is_none()));
    let longest = fared.iter().map(|fared| fared.waited).max();
    assert!(longest < Some(ms(150)), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn under_pressure_the_newest_are_served_and_the_oldest_refused_in_time() {
    let places = Places::new(1, PATIENCE);
    // Twice as many as can be done, for three seconds.
    let fared = load(&places, &every(ms(5), 600), ms(10)).await;
    let (served, refused): (Vec<&Fared>, Vec<&Fared>) =
        fared.iter().partition(|fared| fared.refused.is_none());
    assert!((300..360).contains(&served.len()), "{} served", served.len());
    for fared in &refused {
        assert_eq!(fared.refused, Some(Refused::Waited));
        assert!((PATIENCE..PATIENCE + ms(20)).contains(&fared.waited), "{fared:?}");
    }
    // In order at first.
    let first = served.iter().take_while(|fared| fared.turn < 24);
    assert!(first.is_sorted_by_key(|fared| fared.turn));
    // Then most of those who are served have hardly waited, and to the end as many are served as can be.
    let late: Vec<_> = served
        .iter()
        .filter(|fared| fared.arrived > ms(600) && fared.arrived < ms(2_900))
        .collect();
    let soon = late.iter().filter(|fared| fared.waited <= ms(20)).count();
    assert!(
        soon * 10 >= late.len() * 9,
        "{soon} of {} waited up to 20 ms",
        late.len()
    );
    assert!(late.len() > 200, "{}", late.len());
    assert_idle(&places, 1);
}

#[tokio::test(start_paused = true)]
async fn under_pressure_what_goes_on_is_served_before_what_begins_and_never_refused() {
    let places = Places::new(1, PATIENCE);
    let mut arrivals = every(ms(5), 400);
    arrivals
        .iter_mut()
        .skip(100)
        .step_by(5)
        .for_each(|arrival| arrival.1 = Purpose::GoOn);
    let fared = load(&places, &arrivals, ms(10)).await;
    let going_on: Vec<_> = fared
        .iter()
        .filter(|fared| fared.purpose == Purpose::GoOn)
        .collect();
    assert_eq!(going_on.len(), 60);
    for fared in going_on {
        assert!(fared.refused.is_none() && fared.waited <= ms(10), "{fared:?}");
    }
    assert!(fared.iter().any(|fared| fared.refused.is_some()));
    assert_idle(&places, 1);
}

#[tokio::test(start_paused = true)]
async fn after_the_load_its_backlog_is_gone_within_the_patience() {
    let places = Places::new(1, PATIENCE);
    let mut arrivals = every(ms(1), 2_000);
    arrivals.extend((0..100).map(|number| (ms(2_000 + number * 20), Purpose::Begin)));
    let fared = load(&places, &arrivals, ms(10)).await;
    let after = fared.iter().filter(|fared| fared.arrived >= ms(2_000));
    let slow = after.filter(|fared| fared.waited > ms(20)).count();
    assert!(slow <= 1, "{slow} of those that came afterwards");
}

/// A server that answers nothing for seconds is not overloaded.
#[tokio::test(start_paused = true)]
async fn nobody_is_refused_while_nothing_is_answered_at_all() {
    let places = Places::new(1, PATIENCE);
    let silent = held(places.take(Purpose::Begin, far()).now_or_never());
    let burst = every(ms(1), 10);
    let (fared, ()) = tokio::join!(load(&places, &burst, ms(10)), async {
        sleep(Duration::from_secs(5)).await;
        drop(silent);
    });
    let turns: Vec<usize> = fared.iter().map(|fared| fared.turn).collect();
    assert_eq!(turns, (0..10).collect::<Vec<_>>());
    assert!(fared.iter().all(|fared| fared.refused.is_none()));
    assert_idle(&places, 1);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_comes_first() {
    let places = Places::new(1, PATIENCE);
    let _held = held(places.take(Purpose::GoOn, far()).now_or_never());
    for purpose in [Purpose::Begin, Purpose::GoOn] {
        let began = Instant::now();
        let place = places.take(purpose, began + ms(70)).await;
        assert_eq!(place.err(), Some(Refused::Deadline));
        assert!(began.elapsed() < ms(75));
    }
    let state = places.lock();
    assert_eq!((state.begin.len(), state.go_on.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_away_gives_its_turn_and_its_place_back() {
    let places = Places::new(1, PATIENCE);
    let first = held(places.take(Purpose::Begin, far()).now_or_never());
    let take = || Box::pin(places.take(Purpose::Begin, far()));
    let (mut second, mut third, mut fourth) = (take(), take(), take());
    for waiting in [&mut second, &mut third, &mut fourth] {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    // One that waits.
    drop(third);
    // One that was given the place and has not seen it yet.
    drop(first);
    assert!(
        fourth.as_mut().now_or_never().is_none(),
        "it is the second one's turn"
    );
    drop(second);
    let place = held(fourth.as_mut().now_or_never());
    // One that never began to wait.
    drop(take());
    assert_eq!(places.lock().free, 0);
    drop(place);
    assert_idle(&places, 1);
}

/// It was found in the queue, and went before it was given the place.
#[tokio::test(start_paused = true)]
async fn a_place_on_the_way_to_one_who_has_gone_comes_back() {
    let places = Places::new(0, PATIENCE);
    let (hand, gone) = oneshot::channel();
    drop(gone);
    let waiter = Waiter {
        since: Duration::ZERO,
        hand,
    };
    waiter.give(Place(places.clone()));
    assert_idle(&places, 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_there_is_room_for() {
    let places = Places::new(1, PATIENCE);
    let first = held(places.take(Purpose::Begin, far()).now_or_never());
    let take = |purpose| Box::pin(places.take(purpose, far()));
    let waits = |purpose| {
        let mut waiting = take(purpose);
        assert!(waiting.as_mut().now_or_never().is_none());
        waiting
    };
    let mut waiting: VecDeque<_> = (0..MAX_WAITING).map(|_| waits(Purpose::Begin)).collect();
    let mut oldest = || waiting.pop_front().and_then(FutureExt::now_or_never);
    // All have a turn to hope for, so one that begins something is refused; one that goes on takes the oldest one's.
    assert_eq!(refused(take(Purpose::Begin).now_or_never()), Some(Refused::Full));
    let _goes_on = waits(Purpose::GoOn);
    assert_eq!(refused(oldest()), Some(Refused::Full));
    let mut place = first;
    for _ in 0..2 {
        sleep(STALL).await;
        drop(place);
        place = held(oldest());
    }
    // Under pressure the oldest have nothing to hope for.
    sleep(STALL).await;
    let _two = [(); 2].map(|()| waits(Purpose::Begin));
    let _one_more = waits(Purpose::Begin);
    assert_eq!(refused(oldest()), Some(Refused::Full));
}

/// Operations of all kinds come, wait, go away at any moment, and keep their places for any time.
#[tokio::test(start_paused = true)]
async fn every_place_comes_back() {
    for seed in 0..30 {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(1..6);
        let places = Places::new(count, ms(random.random_range(0..60)));
        let out = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..400 {
            let purpose = [Purpose::Begin, Purpose::GoOn][random.random_range(0..2)];
            let mut draw = |most| ms(random.random_range(0..most));
            let (arrives, deadline, leaves, work) = (draw(400), draw(300), draw(200), draw(8));
            let (places, out) = (places.clone(), out.clone());
            tasks.spawn(async move {
                sleep(arrives).await;
                let place = tokio::select! {
                    biased;
                    () = sleep(leaves) => return,
                    place = places.take(purpose, Instant::now() + deadline) => place,
                };
                if place.is_ok() {
                    assert!(out.fetch_add(1, Ordering::Relaxed) < count, "more than there are");
                    sleep(work).await;
                    out.fetch_sub(1, Ordering::Relaxed);
                }
            });
        }
        tasks.join_all().await;
        assert_idle(&places, count);
    }
}
