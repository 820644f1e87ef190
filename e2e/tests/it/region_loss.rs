//! A region is lost under load, in three ways, and comes back: the other one goes on, nothing acknowledged is lost, and the preferred
//! placement is restored without an error that a client would see. How long it takes `examples/region_loss.rs` measures.

use std::time::Duration;

use meridian::embedded::{Cluster as Embedded, Delay, Options};
use meridian_e2e::region_loss::{CutOff, Killed, Paused, Placement, Seen, World, run};
use meridian_e2e::{Cluster, RegionLayout};

const RANGES: usize = 4;
/// For liveness only.
const PATIENCE: Duration = Duration::from_secs(60);

async fn loses_a(world: &mut impl World) {
    let seen = run(world, RANGES, Placement::Automatic, PATIENCE).await;
    let Seen {
        all_writable,
        all_writable_from_a,
        placed,
        written,
        errors_after_return,
        errors_while_lost,
    } = seen;
    println!(
        "written in b after {all_writable:?}, by clients of a after {all_writable_from_a:?}, placed {placed:?} after the return; \
         {} appends, {errors_while_lost} errors while a was lost",
        written.acknowledged.len()
    );
    assert!(placed.is_some(), "the preferred placement is not restored");
    assert_eq!(errors_after_return, [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_whose_processes_are_killed() {
    let cluster = Cluster::start_regions(RegionLayout {
        ranges: RANGES,
        ..RegionLayout::default()
    });
    loses_a(&mut Killed(cluster.await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_whose_processes_are_paused() {
    let cluster = Cluster::start_regions(RegionLayout {
        ranges: RANGES,
        ..RegionLayout::default()
    });
    loses_a(&mut Paused(cluster.await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let delays = ["a-b=30ms", "a-w=10ms", "b-w=25ms"].map(|delay| delay.parse::<Delay>().unwrap());
    let splits = (1..RANGES).map(|range| format!("{range}/"));
    let options = Options::new(directory.path()).regions(3).delays(delays);
    let cluster = Embedded::start(options.split_at(splits)).await.unwrap();
    let mut world = CutOff(cluster);
    loses_a(&mut world).await;
    world.0.shutdown().await;
}
