//! What a node keeps over a crash, and what goes wrong with it.

mod files;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_journal::files::{Fault, Files, MemoryFiles};
use rand::Rng;
use rand::rngs::StdRng;

use super::versions::Versions;
use files::{State, Watched};

/// Blocks of this many bytes reach the disk as a whole or not at all.
const BLOCK_BYTES: usize = 512;

/// Which operation of a journal node's disk fails with EIO, and goes on failing until the process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Syncing; what should have been written may be forgotten, as operating systems do.
    Sync,
}

/// What a power loss did to blocks that were written and not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Torn {
    /// Such blocks.
    pub unsynced: usize,
    /// Those of them that are on the disk nevertheless.
    pub survived: usize,
}

/// A node's disk.
pub struct Disk {
    /// The journal's directory.
    files: Mutex<MemoryFiles>,
    /// What goes wrong with it.
    state: Arc<Mutex<State>>,
    /// A storage node's versions.
    pub versions: Versions,
}

impl Disk {
    /// An empty one. If it `lies`, a sync does nothing.
    pub fn new(lies: bool, versions: Versions) -> Self {
        Self {
            files: Mutex::default(),
            state: Arc::new(Mutex::new(State::new(lies))),
            versions,
        }
    }

    /// The journal's directory, as the node sees it.
    pub fn files(&self) -> Arc<dyn Files> {
        Arc::new(Watched::new(self.directory(), self.state.clone()))
    }

    /// The directory itself.
    pub fn directory(&self) -> MemoryFiles {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A process starts: what it does with a sound disk is its own fault again.
    pub fn process_starts(&self) {
        self.state().process_starts();
    }

    /// The process ended by itself.
    pub fn process_ended(&self) {
        self.versions.close();
        self.replace(self.directory().after_process_death());
        self.state().process_died();
    }

    /// The process died: the journal keeps what it wrote, the store may lose what was not flushed.
    pub fn process_died(&self, rng: &mut StdRng) {
        self.versions.crash(rng);
        self.process_ended();
    }

    /// The power failed: of what was not synced each block survives as `survives` says.
    pub fn power_failed(&self, rng: &mut StdRng, survives: f64) -> Torn {
        let before = self.directory();
        let after = before.after_power_loss(|| rng.random_bool(survives));
        let torn = torn(&before, &after);
        self.replace(after);
        self.state().process_died();
        self.versions.crash(rng);
        torn
    }

    /// Everything on it is gone for ever.
    pub fn lose(&self) {
        self.replace(MemoryFiles::new());
        self.versions.lose();
    }

    /// Inverts one bit of what stands in a segment. Whether there was one.
    pub fn flip_bit(&self, rng: &mut StdRng) -> bool {
        let files = self.directory();
        let names = Files::list(&files).unwrap_or_default();
        let segments: Vec<String> = names
            .into_iter()
            .filter(|name| name.starts_with("wal-"))
            .collect();
        if segments.is_empty() {
            return false;
        }
        let Some(name) = segments.get(rng.random_range(0..segments.len())) else {
            return false;
        };
        let mut content = files.content(name).unwrap_or_default();
        let Some(last) = content.iter().rposition(|byte| *byte != 0) else {
            return false;
        };
        let place = rng.random_range(0..=last);
        if let Some(byte) = content.get_mut(place) {
            *byte ^= 1 << rng.random_range(0..8);
        }
        tracing::info!(name, place, "a bit flips");
        files.set_content(name, content);
        true
    }

    /// There is no room but for a few more bytes, until [`Disk::has_room`].
    pub fn fill(&self, rng: &mut StdRng) {
        let files = self.directory();
        let mut fault = Fault {
            capacity_bytes: Some(files.used_bytes() + rng.random_range(0..=8_192)),
            ..Fault::default()
        };
        // Rare, and then the node stops: what the disk holds is not known any more.
        if rng.random_bool(0.1) {
            fault.full_syncs = 1;
        }
        files.set_fault(fault);
        let mut state = self.state();
        state.capacity = fault.capacity_bytes;
        state.refuses_writes = rng.random_bool(0.7);
        state.is_excused = true;
    }

    /// There is room again.
    pub fn has_room(&self) {
        {
            let mut state = self.state();
            (state.capacity, state.refuses_writes) = (None, false);
        }
        self.directory().set_fault(Fault::default());
    }

    /// Fails from now on, until the process is gone.
    pub fn fail(&self, broken: Broken, rng: &mut StdRng) {
        let after = Some(rng.random_range(0..=3));
        let fault = match broken {
            Broken::Read => Fault::default(),
            Broken::Write => Fault {
                fail_write_after: after,
                ..Fault::default()
            },
            Broken::Sync => Fault {
                fail_sync_after: after,
                failed_sync_forgets: rng.random_bool(0.5),
                ..Fault::default()
            },
        };
        self.directory().set_fault(fault);
        let mut state = self.state();
        (state.is_excused, state.is_armed) = (true, true);
        state.fails_reads = broken == Broken::Read;
    }

    /// A group of records takes this long from now on.
    pub fn slow_down(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// The power fails in the middle of one of the next syncs.
    pub fn lose_power_at_sync(&self, syncs: u64) {
        let mut state = self.state();
        (state.is_excused, state.is_armed) = (true, true);
        state.power_fails_in = Some(syncs);
    }

    /// Whether the power failed in the middle of a sync: the machine is to be switched off.
    pub fn has_lost_power(&self) -> bool {
        self.state().is_dead
    }

    /// Whether the process may give up, because its disk gave it reason to.
    pub fn excuses_failure(&self) -> bool {
        self.state().is_excused
    }

    /// What the process did with its disk and must not have done.
    pub fn misuse(&self) -> Option<String> {
        self.state().misuse.take()
    }

    /// Restarts do not make room.
    fn replace(&self, files: MemoryFiles) {
        files.set_fault(Fault {
            capacity_bytes: self.state().capacity,
            ..Fault::default()
        });
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much of what was not synced is on the disk after all.
fn torn(before: &MemoryFiles, after: &MemoryFiles) -> Torn {
    let synced = before.after_power_loss(|| false);
    let mut torn = Torn::default();
    for name in Files::list(before).unwrap_or_default() {
        let written = before.content(&name).unwrap_or_default();
        let synced = synced.content(&name).unwrap_or_default();
        let found = after.content(&name).unwrap_or_default();
        for (index, block) in written.chunks(BLOCK_BYTES).enumerate() {
            let at = index * BLOCK_BYTES..index * BLOCK_BYTES + block.len();
            let is_blank = synced.len() < at.end && block.iter().all(|byte| *byte == 0);
            if is_blank || synced.get(at.clone()) == Some(block) {
                continue;
            }
            torn.unsynced += 1;
            torn.survived += usize::from(found.get(at) == Some(block));
        }
    }
    torn
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::SeedableRng;

    use super::*;

    fn disk_with(content: &[u8]) -> (Disk, Box<dyn meridian_journal::files::File>) {
        let disk = Disk::new(false, Versions::in_memory());
        let file = disk.files().create("wal-0000000000000001.log").unwrap();
        disk.files().sync_dir().unwrap();
        file.write_all_at(0, &[Bytes::copy_from_slice(content)]).unwrap();
        (disk, file)
    }

    #[test]
    fn a_power_loss_within_a_sync_tears_what_was_written_into_blocks() {
        let rng = &mut StdRng::seed_from_u64(7);
        let (disk, file) = disk_with(&[1; 8 * BLOCK_BYTES]);
        file.sync_data().unwrap();
        disk.lose_power_at_sync(0);
        file.write_all_at(0, &[Bytes::from(vec![2; 8 * BLOCK_BYTES])])
            .unwrap();
        assert!(file.sync_data().is_err());
        assert!(disk.has_lost_power() && disk.excuses_failure());
        let torn = disk.power_failed(rng, 0.5);
        assert_eq!(torn.unsynced, 8);
        assert!((1..8).contains(&torn.survived), "{torn:?}");
        let content = disk.directory().content("wal-0000000000000001.log").unwrap();
        assert_eq!(content.len(), 8 * BLOCK_BYTES);
        assert!(content.contains(&1) && content.contains(&2));
        assert!(!disk.has_lost_power());
    }

    #[test]
    fn a_disk_that_failed_must_not_be_written_again_by_the_same_process() {
        let rng = &mut StdRng::seed_from_u64(7);
        let (disk, file) = disk_with(&[1]);
        disk.fail(Broken::Sync, rng);
        while file.sync_data().is_ok() {}
        assert_eq!(disk.misuse(), None);
        file.write_all_at(0, &[Bytes::from_static(b"more")]).unwrap();
        assert!(disk.misuse().is_some());
        disk.process_died(rng);
        let file = disk.files().open("wal-0000000000000001.log").unwrap();
        file.write_all_at(0, &[Bytes::from_static(b"more")]).unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.misuse(), None);
    }

    #[test]
    fn a_full_disk_refuses_until_there_is_room() {
        let rng = &mut StdRng::seed_from_u64(7);
        let (disk, file) = disk_with(&[1]);
        disk.fill(rng);
        let much = Bytes::from(vec![3; 10_000]);
        let error = file.write_all_at(0, std::slice::from_ref(&much)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        disk.has_room();
        file.write_all_at(0, &[much]).unwrap();
        assert!(disk.misuse().is_none());
    }

    #[test]
    fn a_bit_flips_where_something_is_written() {
        let rng = &mut StdRng::seed_from_u64(7);
        let (disk, _file) = disk_with(&[1; 100]);
        assert!(disk.flip_bit(rng));
        let content = disk.directory().content("wal-0000000000000001.log").unwrap();
        let wrong: u32 = content.iter().map(|byte| (byte ^ 1).count_ones()).sum();
        assert_eq!(wrong, 1);
    }
}
