//! The write-ahead log alone: cut at every byte, damaged at every byte, crashed at every write and sync, full.

use std::sync::Arc;

use meridian_journal::files::{Fault, Files, MemoryFiles};
use meridian_journal::wal::format::{Body, Owner};
use meridian_journal::wal::{MARK_FILE, Segments, Wal, segment_name};
use meridian_journal::{StartError, WriteError};
use meridian_types::{Epoch, StreamId};
use proptest::prelude::*;

use crate::support::{cluster_id, commit, disk_id, registered};

const SEGMENT_BYTES: u64 = 4 << 10;

fn owner() -> Owner {
    Owner {
        cluster: cluster_id(),
        node: "j1".into(),
        disk: disk_id(1),
    }
}

fn open(files: &MemoryFiles) -> Result<(Wal, Vec<Body>), StartError> {
    let mut found = Vec::new();
    let segments = Segments::new(Arc::new(files.clone()));
    let mut each = |record: meridian_journal::wal::format::Record, location| {
        let again = segments.read(&[location]).map_err(|error| error.to_string())?;
        assert_eq!(again[0].body, record.body);
        found.push(record.body);
        Ok(())
    };
    let (wal, _) = Wal::open(Arc::new(files.clone()), owner(), SEGMENT_BYTES, &mut each)?;
    Ok((wal, found))
}

fn entry(lsn: u64, bytes: usize) -> Body {
    let payload: Vec<u8> = (0..bytes)
        .map(|index| u8::try_from((index as u64 * 31 + lsn) % 251).unwrap())
        .collect();
    Body::Entry(StreamId(1), commit(1, lsn, &payload))
}

/// Three groups of records of several kinds.
fn groups() -> Vec<Vec<Body>> {
    vec![
        vec![
            Body::Promise(StreamId(1), Epoch(1), Some("a1".into())),
            entry(1, 20),
        ],
        vec![entry(2, 0), entry(3, 100)],
        vec![
            Body::Rejoined(StreamId(2)),
            Body::Promise(StreamId(3), Epoch(9), None),
            entry(4, 33),
        ],
    ]
}

/// A log with the groups; the mark is as `is_mark_synced` leaves it: at the end, or where it was when the log was opened.
fn written(is_mark_synced: bool) -> (MemoryFiles, Vec<Body>, usize) {
    let files = registered("j1", 1);
    let (mut wal, _) = open(&files).unwrap();
    let old_mark = files.content(MARK_FILE).unwrap();
    let mut last_group = 0;
    for group in groups() {
        last_group = end_of_log(&files);
        wal.append(&group).unwrap();
    }
    if !is_mark_synced {
        files.set_content(MARK_FILE, old_mark);
    }
    (files, groups().concat(), last_group)
}

fn end_of_log(files: &MemoryFiles) -> usize {
    let bytes = files.content(&segment_name(1)).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

fn is_prefix(found: &[Body], of: &[Body]) -> bool {
    of.get(..found.len()) == Some(found)
}

#[test]
fn what_was_appended_is_found_again() {
    for is_mark_synced in [true, false] {
        let (files, all, _) = written(is_mark_synced);
        let (mut wal, found) = open(&files).unwrap();
        assert_eq!(found, all);
        wal.append(&[entry(5, 5)]).unwrap();
        assert_eq!(open(&files).unwrap().1, [all, vec![entry(5, 5)]].concat());
    }
}

#[test]
fn a_log_cut_at_every_byte_is_refused_below_the_mark_and_cut_back_above_it() {
    let (synced, all, _) = written(true);
    let end = end_of_log(&synced);
    for at in 0..end {
        let files = synced.after_process_death();
        let mut bytes = files.content(&segment_name(1)).unwrap();
        bytes.truncate(at);
        files.set_content(&segment_name(1), bytes);
        let error = open(&files)
            .err()
            .unwrap_or_else(|| panic!("cut at {at} was not found"));
        assert!(error.is_loss(), "{error}");
    }
    let (unsynced, _, _) = written(false);
    let mut found_counts = Vec::new();
    for at in 512..=end {
        let files = unsynced.after_process_death();
        let mut bytes = files.content(&segment_name(1)).unwrap();
        bytes.truncate(at);
        files.set_content(&segment_name(1), bytes);
        let (mut wal, found) = open(&files).unwrap();
        assert!(is_prefix(&found, &all), "cut at {at}");
        found_counts.push(found.len());
        wal.append(&[entry(9, 50)]).unwrap();
        assert_eq!(open(&files).unwrap().1, [found, vec![entry(9, 50)]].concat());
    }
    assert!(found_counts.is_sorted());
    assert_eq!(
        (found_counts.first(), found_counts.last()),
        (Some(&0), Some(&all.len()))
    );
}

#[test]
fn a_bit_flipped_at_every_byte_is_found_and_never_served() {
    let (synced, all, _) = written(true);
    let end = end_of_log(&synced);
    for at in 0..end + 40 {
        let files = synced.after_process_death();
        flip(&files, at, at % 8);
        match open(&files) {
            // Above the mark there is nothing: what stands there is a torn tail.
            Ok((_, found)) => assert!(at >= end && found == all, "a flip at {at} was not found"),
            Err(StartError::UnsupportedFormat { .. }) => assert!((8..12).contains(&at)),
            Err(error) => assert!(error.is_loss() && at < end, "{at}: {error}"),
        }
    }
}

#[test]
fn an_old_mark_does_not_hide_that_a_durable_record_was_damaged() {
    let (files, all, last_group) = written(false);
    let end = end_of_log(&files);
    for at in 512..end {
        let files = files.after_process_death();
        flip(&files, at, at % 8);
        match open(&files) {
            Ok((_, found)) => {
                assert!(
                    at >= last_group,
                    "a flip at {at} cut records that a later group proves to be durable"
                );
                assert!(is_prefix(&found, &all) && found.len() >= 4, "flip at {at}");
                assert!(end_of_log(&files) <= at, "the damaged tail is still there");
            }
            Err(error) => assert!(error.is_loss() && at < last_group, "{at}: {error}"),
        }
    }
}

#[test]
fn a_bit_flipped_in_the_mark_costs_nothing_and_a_lost_mark_is_refused() {
    let (files, all, _) = written(true);
    let len = files.content(MARK_FILE).unwrap().len();
    for at in 0..len {
        let files = files.after_process_death();
        let mut bytes = files.content(MARK_FILE).unwrap();
        bytes[at] ^= 1 << (at % 8);
        files.set_content(MARK_FILE, bytes);
        assert_eq!(open(&files).unwrap().1, all, "flip at {at} of the mark");
    }
    for content in [vec![], vec![0; len]] {
        files.set_content(MARK_FILE, content);
        assert!(open(&files).err().unwrap().is_loss());
    }
    files.remove(MARK_FILE).unwrap();
    assert!(open(&files).err().unwrap().is_loss());
}

fn flip(files: &MemoryFiles, at: usize, bit: usize) {
    let mut bytes = files.content(&segment_name(1)).unwrap();
    bytes[at] ^= 1 << bit;
    files.set_content(&segment_name(1), bytes);
}

#[test]
fn a_missing_segment_is_a_loss_and_an_unfinished_one_is_not() {
    let files = registered("j1", 1);
    let (mut wal, _) = open(&files).unwrap();
    let all: Vec<Body> = (1..=12).map(|lsn| entry(lsn, 1_000)).collect();
    for record in &all {
        wal.append(std::slice::from_ref(record)).unwrap();
    }
    let segments: Vec<String> = files
        .list()
        .unwrap()
        .into_iter()
        .filter(|name| name.starts_with("wal"))
        .collect();
    assert!(segments.len() >= 4, "{segments:?}");
    assert_eq!(open(&files).unwrap().1, all);
    for name in &segments {
        let files = files.after_process_death();
        files.remove(name).unwrap();
        let error = open(&files).err().unwrap();
        assert!(
            error.is_loss() && error.to_string().contains("replace_lost_disk"),
            "{error}"
        );
    }
    for content in [0, 100, 512, 4_096] {
        let files = files.after_process_death();
        files.create(&segment_name(segments.len() as u64 + 1)).unwrap();
        files.set_content(&segment_name(segments.len() as u64 + 1), vec![0; content]);
        let (mut wal, found) = open(&files).unwrap();
        assert_eq!(found, all);
        wal.append(&[entry(13, 3_000)]).unwrap();
        assert_eq!(open(&files).unwrap().1.len(), 13);
    }
}

#[test]
fn another_format_version_or_disk_is_refused_by_name() {
    let (files, _, _) = written(true);
    let mut bytes = files.content(&segment_name(1)).unwrap();
    bytes[8] = 2;
    // Where another format has its crc nobody knows; here something else stands where ours is.
    bytes[30] ^= 0xff;
    let newer = files.after_process_death();
    newer.set_content(&segment_name(1), bytes);
    let message = open(&newer).err().unwrap().to_string();
    assert!(
        message.contains(&segment_name(1)) && message.contains("version 2") && message.contains('1'),
        "{message}"
    );
    let other = Owner {
        disk: disk_id(2),
        ..owner()
    };
    let error = Wal::open(Arc::new(files), other, SEGMENT_BYTES, &mut |_, _| Ok(()))
        .err()
        .unwrap();
    assert!(matches!(error, StartError::WrongDisk { .. }), "{error}");
}

#[test]
fn a_full_disk_refuses_a_group_as_a_whole_and_recovers() {
    for spare in (0..5_000).step_by(97) {
        let files = registered("j1", 1);
        let (mut wal, _) = open(&files).unwrap();
        let mut kept = vec![entry(1, 1_000), entry(2, 1_000)];
        wal.append(&kept).unwrap();
        files.set_fault(Fault {
            capacity_bytes: Some(files.used_bytes() + spare),
            ..Fault::default()
        });
        let mut refused = 0;
        for lsn in 3..9 {
            let group = [entry(lsn, 700), entry(lsn + 100, 600)];
            match wal.append(&group) {
                Ok(locations) => {
                    assert_eq!(locations.len(), 2);
                    kept.extend(group);
                }
                Err(WriteError::Full(_)) => refused += 1,
                Err(WriteError::Failed(what)) => panic!("{what}"),
            }
            assert_eq!(open(&files.after_process_death()).unwrap().1, kept);
        }
        assert!(refused > 0);
        files.set_fault(Fault::default());
        wal.append(&[entry(50, 3_000)]).unwrap();
        kept.push(entry(50, 3_000));
        assert_eq!(open(&files).unwrap().1, kept);
    }
}

#[test]
fn what_was_found_after_a_kill_survives_a_power_loss_right_after() {
    let (files, all, _) = written(true);
    let (mut wal, _) = open(&files).unwrap();
    files.set_fault(Fault {
        fail_sync_after: Some(0),
        ..Fault::default()
    });
    assert!(wal.append(&[entry(5, 10)]).is_err());
    let killed = files.after_process_death();
    let (_, found) = open(&killed).unwrap();
    assert_eq!(
        found,
        [all, vec![entry(5, 10)]].concat(),
        "it was in the system's cache"
    );
    assert_eq!(open(&killed.after_power_loss(|| false)).unwrap().1, found);
}

/// What a failed sync did not write can be read until the power fails, and no later sync writes it: only writing it again does.
#[test]
fn what_a_failed_sync_left_in_memory_is_written_again_before_it_counts() {
    for is_new_segment in [false, true] {
        let (files, all, _) = written(true);
        let (mut wal, _) = open(&files).unwrap();
        files.set_fault(Fault {
            fail_sync_after: Some(0),
            failed_sync_forgets: true,
            ..Fault::default()
        });
        let size = if is_new_segment { 4_000 } else { 10 };
        assert!(wal.append(&[entry(5, size)]).is_err());
        let killed = files.after_process_death();
        let (mut wal, found) = open(&killed).unwrap();
        wal.append(&[entry(6, 10)]).unwrap();
        let (_, after) = open(&killed.after_power_loss(|| false)).unwrap();
        assert_eq!(after, [found, vec![entry(6, 10)]].concat());
        assert!(is_prefix(&all, &after));
    }
}

/// The process dies when the segment is there, but the directory is not synced yet.
#[test]
fn a_segment_that_was_found_after_a_kill_keeps_its_name() {
    let (files, all, _) = written(true);
    let (mut wal, _) = open(&files).unwrap();
    files.set_fault(Fault {
        fail_sync_after: Some(1),
        ..Fault::default()
    });
    assert!(wal.append(&[entry(5, 4_000)]).is_err());
    let killed = files.after_process_death();
    assert!(killed.content(&segment_name(2)).is_some());
    let (mut wal, _) = open(&killed).unwrap();
    wal.append(&[entry(5, 4_000)]).unwrap();
    let (_, found) = open(&killed.after_power_loss(|| false)).unwrap();
    assert_eq!(found, [all, vec![entry(5, 4_000)]].concat());
}

#[test]
fn a_damaged_header_before_records_is_a_loss_and_not_an_unfinished_segment() {
    let (files, _, _) = written(true);
    let mark = files.content(MARK_FILE).unwrap();
    let (mut wal, _) = open(&files).unwrap();
    wal.append(&[entry(5, 4_000)]).unwrap();
    // The mark never reached the disk (it is an old one, which is valid).
    files.set_content(MARK_FILE, mark);
    let mut bytes = files.content(&segment_name(2)).unwrap();
    bytes[20] ^= 1;
    files.set_content(&segment_name(2), bytes);
    assert!(open(&files).err().unwrap().is_loss());
}

#[test]
fn a_mark_that_finds_no_room_twice_does_not_cost_the_log() {
    let (files, all, _) = written(true);
    let (mut wal, _) = open(&files).unwrap();
    let mut expected = all;
    for lsn in 5..8 {
        // The write of the group has room, that of the mark has not.
        wal.append(&[entry(lsn, 10)]).unwrap();
        expected.push(entry(lsn, 10));
        files.set_fault(Fault {
            full_syncs: 1,
            ..Fault::default()
        });
        wal.sync_mark().unwrap();
    }
    assert_eq!(open(&files.after_power_loss(|| false)).unwrap().1, expected);
    wal.append(&[entry(8, 10)]).unwrap();
}

#[test]
fn nothing_is_left_of_a_write_that_found_no_room() {
    let files = registered("j1", 1);
    let (mut wal, _) = open(&files).unwrap();
    wal.append(&[entry(1, 50)]).unwrap();
    files.set_fault(Fault {
        full_writes: 1,
        ..Fault::default()
    });
    let group = [entry(2, 50), entry(3, 50), entry(4, 50)];
    assert!(matches!(wal.append(&group), Err(WriteError::Full(_))));
    assert_eq!(open(&files.after_process_death()).unwrap().1, [entry(1, 50)]);
    wal.append(&[entry(9, 50)]).unwrap();
    assert_eq!(open(&files).unwrap().1, [entry(1, 50), entry(9, 50)]);
}

/// A record of an earlier life of the file that happens to lie where the next one would.
#[test]
fn a_stale_record_is_not_taken_for_the_continuation_of_another_one() {
    let logs = [1, 2].map(|second| {
        let files = registered("j1", 1);
        let (mut wal, _) = open(&files).unwrap();
        let mark = files.content(MARK_FILE).unwrap();
        wal.append(&[entry(1, 50)]).unwrap();
        let start = end_of_log(&files);
        wal.append(&[Body::Entry(StreamId(second), commit(1, 2, b"same length"))])
            .unwrap();
        let end = end_of_log(&files);
        wal.append(&[entry(3, 50)]).unwrap();
        files.set_content(MARK_FILE, mark);
        (files, start, end)
    });
    let [(ours, start, end), (other, ..)] = logs;
    let mut bytes = ours.content(&segment_name(1)).unwrap();
    bytes[start..end].copy_from_slice(&other.content(&segment_name(1)).unwrap()[start..end]);
    ours.set_content(&segment_name(1), bytes);
    let (_, found) = open(&ours).unwrap();
    assert!(found.len() == 2 && found[0] == entry(1, 50), "{found:?}");
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_appended_any_more() {
    for fault in [
        Fault {
            fail_write_after: Some(0),
            ..Fault::default()
        },
        Fault {
            fail_sync_after: Some(0),
            ..Fault::default()
        },
    ] {
        let (files, _, _) = written(true);
        let (mut wal, _) = open(&files).unwrap();
        files.set_fault(fault);
        assert!(matches!(wal.append(&[entry(5, 10)]), Err(WriteError::Failed(_))));
        files.set_fault(Fault::default());
        assert!(
            matches!(wal.append(&[entry(5, 10)]), Err(WriteError::Failed(_))),
            "the disk looks well again"
        );
    }
}

/// What a crash may leave, by a small generator.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> bool {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 63 == 1
    }
}

/// Appends groups of these sizes until one fails. Returns what was acknowledged and everything that was tried.
fn append_until_failure(wal: &mut Wal, sizes: &[Vec<usize>], first_lsn: u64) -> (Vec<Body>, Vec<Body>) {
    let (mut acknowledged, mut tried) = (Vec::new(), Vec::new());
    let mut lsn = first_lsn;
    for sizes in sizes {
        let mut group = Vec::new();
        for size in sizes {
            group.push(entry(lsn, *size));
            lsn += 1;
        }
        tried.extend(group.clone());
        match wal.append(&group) {
            Ok(_) => acknowledged.extend(group),
            Err(_) => break,
        }
    }
    (acknowledged, tried)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Power is lost around any write or sync; of what was not synced any blocks survive; twice in a row.
    #[test]
    fn what_was_acknowledged_survives_a_power_loss_at_any_moment(
        groups in prop::collection::vec(prop::collection::vec(0_usize..900, 1..4), 1..12),
        fail_at in 0_u64..30,
        is_sync in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut dice = Dice(seed);
        let mut files = registered("j1", 1);
        let mut expected = Vec::new();
        for round in 0..2 {
            let opened = open(&files);
            let (mut wal, found) = opened.map_err(|error| TestCaseError::fail(format!("round {round}: {error}")))?;
            prop_assert!(is_prefix(&expected, &found));
            let fault = if is_sync {
                Fault { fail_sync_after: Some(fail_at), ..Fault::default() }
            } else {
                Fault { fail_write_after: Some(fail_at), ..Fault::default() }
            };
            files.set_fault(fault);
            let (acknowledged, tried) = append_until_failure(&mut wal, &groups, 1 + 1_000 * round);
            expected = [found.clone(), acknowledged].concat();
            let all = [found, tried].concat();
            files = files.after_power_loss(|| dice.roll());
            let (_, found) = open(&files).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(is_prefix(&expected, &found), "an acknowledged record is gone");
            prop_assert!(is_prefix(&found, &all), "a record that was never written");
        }
    }

    /// A write or sync fails, the process dies and starts again on what the system still shows it, and only then the power fails.
    #[test]
    fn what_a_restarted_process_acknowledged_survives_a_power_loss(
        groups in prop::collection::vec(prop::collection::vec(0_usize..900, 1..4), 1..8),
        fail_at in 0_u64..16,
        fails_sync in any::<bool>(),
        failed_sync_forgets in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut dice = Dice(seed);
        let files = registered("j1", 1);
        let (mut wal, _) = open(&files).unwrap();
        let fail_at = Some(fail_at);
        files.set_fault(if fails_sync {
            Fault { fail_sync_after: fail_at, failed_sync_forgets, ..Fault::default() }
        } else {
            Fault { fail_write_after: fail_at, ..Fault::default() }
        });
        let (acknowledged, _) = append_until_failure(&mut wal, &groups, 1);
        let killed = files.after_process_death();
        let (mut wal, found) = open(&killed).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert!(is_prefix(&acknowledged, &found));
        let (more, _) = append_until_failure(&mut wal, &groups, 1_001);
        let expected = [found, more].concat();
        let after = killed.after_power_loss(|| dice.roll());
        let (_, found) = open(&after).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(found, expected);
    }
}
