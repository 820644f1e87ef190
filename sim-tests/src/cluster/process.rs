//! A process: a service with its memory, its tasks and its timers, on a runtime of its own.
//!
//! turmoil gives every host a turn in every step and cannot leave one out. So the services do not run on turmoil's
//! runtimes: a host of the simulated network is only a node's operating system (`sockets`), and the process beside it is
//! driven from here. A process that is paused gets no turn, as after SIGSTOP: none of its tasks is polled and none of its
//! timers fires, while true time, its clock, its sockets and everybody else go on. When it continues, its monotonic time
//! has jumped: all timers that came due meanwhile fire at once, and everything that was sent to it is there.
//!
//! Caveat: it stops between two polls of its tasks, never in the middle of one. What a task does between two awaits is
//! one instant in this simulation.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::time::TICK;

/// A running process. Dropped, it is dead: its memory is gone and its connections are closed by the system.
pub struct Process {
    /// Dropped before the runtime that its tasks live on.
    main: Option<Pin<Box<dyn Future<Output = ()>>>>,
    runtime: Runtime,
    /// The time that passed without a turn.
    missed: Duration,
}

impl Process {
    /// A process that has not had its first turn yet.
    pub fn new(main: impl Future<Output = ()> + 'static) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        // Timers count whole milliseconds: begin at one.
        runtime.block_on(async { tokio::time::sleep(TICK).await });
        Ok(Self {
            main: Some(Box::pin(main)),
            runtime,
            missed: Duration::ZERO,
        })
    }

    /// Time goes on without it.
    pub fn miss_turn(&mut self) {
        self.missed += TICK;
    }

    /// Runs for one step. Whether it still runs afterwards.
    pub fn turn(&mut self) -> bool {
        let missed = std::mem::take(&mut self.missed);
        let Some(main) = &mut self.main else { return false };
        let turn = async {
            if missed > Duration::ZERO {
                tokio::time::advance(missed).await;
            }
            tokio::select! {
                biased;
                () = main => false,
                () = tokio::time::sleep(TICK) => true,
            }
        };
        // Panics are noted where they happen.
        let is_running = catch_unwind(AssertUnwindSafe(|| self.runtime.block_on(turn))).unwrap_or_default();
        if !is_running {
            self.exit();
        }
        is_running
    }

    fn exit(&mut self) {
        let _inside = self.runtime.enter();
        self.main = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.exit();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_paused_process_does_nothing_and_then_finds_that_time_has_passed() {
        let beats = Rc::new(Cell::new(0_u32));
        let longest = Rc::new(Cell::new(Duration::ZERO));
        let (counted, gap) = (beats.clone(), longest.clone());
        let mut process = Process::new(async move {
            let mut last = Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                counted.set(counted.get() + 1);
                gap.set(gap.get().max(last.elapsed()));
                last = Instant::now();
            }
        })
        .unwrap();
        let turns = |count, process: &mut Process| (0..count).for_each(|_| assert!(process.turn()));
        turns(105, &mut process);
        assert_eq!(beats.get(), 10);
        (0..2_000).for_each(|_| process.miss_turn());
        assert_eq!(beats.get(), 10);
        turns(100, &mut process);
        assert!((20..=21).contains(&beats.get()), "{}", beats.get());
        assert!(longest.get() >= Duration::from_secs(2), "{longest:?}");
    }

    #[test]
    fn tasks_die_with_their_process() {
        let alive = Rc::new(());
        let held = alive.clone();
        let shared = std::sync::Arc::new(());
        let spawned = shared.clone();
        let mut process = Process::new(async move {
            let _held = held;
            tokio::spawn(async move {
                let _spawned = spawned;
                std::future::pending::<()>().await;
            });
            std::future::pending::<()>().await;
        })
        .unwrap();
        assert!(process.turn());
        assert_eq!(
            (Rc::strong_count(&alive), std::sync::Arc::strong_count(&shared)),
            (2, 2)
        );
        drop(process);
        assert_eq!(
            (Rc::strong_count(&alive), std::sync::Arc::strong_count(&shared)),
            (1, 1)
        );
    }
}
