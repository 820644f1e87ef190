//! The format, and what is refused.

mod copying;

use std::sync::Arc;

use bytes::Bytes;
use meridian_files::{File, Files, MemoryFiles};
use meridian_types::{ClusterId, KeyRange, Position, StreamId, Timestamp};
use proptest::prelude::*;

use super::format::{self, Footer, Header, Sums, Versions};
use super::reader::{Next, Reader};
use super::{CHECKPOINT, Checkpoints};
use crate::error::CheckpointFault;
use crate::shared::Figures;
use crate::store::{Progress, VersionWrite};

const CLUSTER: ClusterId = ClusterId(uuid_of(7));

const fn uuid_of(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(n)
}

fn header() -> Header {
    let progress = |epoch, lsn, commit| Progress {
        position: Position::new(epoch, lsn),
        last_commit: Timestamp(commit),
    };
    Header {
        id: [9; 16],
        cluster: CLUSTER,
        keys: KeyRange::new("a".into(), "x".into()),
        begun: Timestamp(77),
        progress: [
            (StreamId(1), progress(3, 40, 20)),
            (StreamId(8), progress(1, 2, 0)),
        ]
        .into(),
    }
}

fn write(key: &str, timestamp: u64, value: Option<&str>) -> VersionWrite {
    VersionWrite {
        key: key.into(),
        timestamp: Timestamp(timestamp),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn some_versions() -> Vec<VersionWrite> {
    vec![
        write("a", 30, Some("three")),
        write("a", 20, None),
        write("a", 10, Some("")),
        write("a\0", 50, Some("x")),
        write("b", 7, Some("seven")),
    ]
}

/// A file as the writer makes it, with so many versions in a frame.
fn encode(header: &Header, versions: &[VersionWrite], per_frame: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sums = Sums::default();
    let mut frame = |body: &[u8], sums: &mut Sums| {
        let (frame, crc) = format::frame(body);
        sums.add(crc);
        bytes.extend_from_slice(&frame);
    };
    frame(&format::header(header), &mut sums);
    for chunk in versions.chunks(per_frame) {
        let mut gathered = Versions::default();
        chunk.iter().for_each(|write| gathered.push(write));
        frame(gathered.body(), &mut sums);
    }
    let footer = Footer {
        frames: sums.frames,
        versions: versions.len() as u64,
        horizon: Timestamp(5),
        sums: sums.sums,
    };
    frame(&format::footer(&footer), &mut Sums::default());
    bytes
}

fn file(bytes: &[u8]) -> Arc<dyn File> {
    let files = MemoryFiles::new();
    let file = files.create(CHECKPOINT).unwrap();
    file.write_all_at(0, &[Bytes::copy_from_slice(bytes)]).unwrap();
    file.into()
}

fn read(bytes: &[u8]) -> Result<(Header, Vec<VersionWrite>, Footer), CheckpointFault> {
    let (header, mut reader) = Reader::open(file(bytes))?;
    let mut all = Vec::new();
    loop {
        match reader.next()? {
            Next::Versions(versions) => all.extend(versions),
            Next::End(footer) => return Ok((header, all, footer)),
        }
    }
}

#[test]
fn what_was_written_is_read() {
    let (header, versions) = (header(), some_versions());
    for per_frame in 1..=6 {
        let (found, all, footer) = read(&encode(&header, &versions, per_frame)).unwrap();
        assert_eq!((found, all), (header.clone(), versions.clone()));
        assert_eq!((footer.versions, footer.horizon), (5, Timestamp(5)));
    }
    let (_, all, _) = read(&encode(&header, &[], 1)).unwrap();
    assert_eq!(all, [], "an empty one is one too");
}

#[test]
fn every_cut_every_flipped_bit_and_every_byte_too_many_is_refused() {
    let bytes = encode(&header(), &some_versions(), 2);
    read(&bytes).unwrap();
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&flipped).is_err(), "bit {bit}");
    }
    for more in [&[0][..], &[0; 600], &bytes] {
        let longer = [&bytes[..], more].concat();
        assert!(matches!(read(&longer), Err(CheckpointFault::Corrupt { .. })));
    }
}

#[test]
fn a_frame_that_is_left_out_comes_twice_or_is_in_another_place_is_refused() {
    let versions = some_versions();
    let frames = |order: &[usize]| {
        let mut bytes = Vec::new();
        let (head, _) = format::frame(&format::header(&header()));
        bytes.extend_from_slice(&head);
        for index in order {
            let mut gathered = Versions::default();
            gathered.push(&versions[*index]);
            bytes.extend_from_slice(&format::frame(gathered.body()).0);
        }
        let whole = encode(&header(), &versions, 1);
        let footer = format::FRAME_BYTES + 29;
        bytes.extend_from_slice(&whole[whole.len() - footer..]);
        bytes
    };
    read(&frames(&[0, 1, 2, 3, 4])).unwrap();
    for wrong in [
        &[0, 1, 2, 3][..],
        &[0, 1, 3, 4],
        &[0, 1, 2, 2, 3, 4],
        &[0, 2, 1, 3, 4],
    ] {
        assert!(
            matches!(read(&frames(wrong)), Err(CheckpointFault::Corrupt { .. })),
            "{wrong:?}"
        );
    }
}

proptest! {
    #[test]
    fn anything_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..300) {
        prop_assert!(read(&bytes).is_err());
        let whole = encode(&header(), &some_versions(), 2);
        let at = at.min(whole.len() - 1);
        if whole[at..].get(..bytes.len()).is_some_and(|found| !found.is_empty() && found != bytes) {
            let mut wrong = whole;
            wrong[at..at + bytes.len()].copy_from_slice(&bytes);
            prop_assert!(read(&wrong).is_err());
        }
    }

    #[test]
    fn any_versions_come_back(
        keys in prop::collection::btree_map(
            (prop::collection::vec(any::<u8>(), 1..5), any::<u64>().prop_map(std::cmp::Reverse)),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 0..30,
        ),
        per_frame in 1_usize..8,
    ) {
        let versions: Vec<VersionWrite> = keys.into_iter().map(|((key, timestamp), value)| VersionWrite {
            key: key.into(), timestamp: Timestamp(timestamp.0), value: value.map(Bytes::from),
        }).collect();
        let (_, all, _) = read(&encode(&header(), &versions, per_frame)).unwrap();
        prop_assert_eq!(all, versions);
    }
}

fn open(files: &MemoryFiles, cluster: u128, keys: KeyRange) -> Result<Checkpoints, CheckpointFault> {
    let cluster = Some(ClusterId(uuid_of(cluster)));
    Checkpoints::open(Arc::new(files.clone()), "st1".into(), cluster, keys)
}

fn directory(bytes: &[u8]) -> MemoryFiles {
    let files = MemoryFiles::new();
    for name in [CHECKPOINT, super::NEXT, super::COPY, "other"] {
        let file = files.create(name).unwrap();
        file.write_all_at(0, &[Bytes::copy_from_slice(bytes)]).unwrap();
        file.sync_data().unwrap();
    }
    files
}

#[tokio::test]
async fn what_was_left_behind_is_removed_and_a_checkpoint_counts_only_when_all_of_it_was_read() {
    let ours = || KeyRange::new("b".into(), "c".into());
    let good = encode(&header(), &some_versions(), 2);
    let files = directory(&good);
    let checkpoints = open(&files, 7, ours()).unwrap();
    assert_eq!(files.list().unwrap(), [CHECKPOINT, "other"]);
    assert!(checkpoints.header().is_some() && checkpoints.sound().is_none());
    checkpoints.check_found(&Figures::default()).await;
    assert_eq!(checkpoints.sound().unwrap().header, header());
    assert!(checkpoints.checked().await.is_some());

    let mut bad = good.clone();
    let place = bad.len() / 2;
    bad[place] ^= 1;
    let checkpoints = open(&directory(&bad), 7, ours()).unwrap();
    checkpoints.check_found(&Figures::default()).await;
    assert!(checkpoints.header().is_none() && checkpoints.checked().await.is_none());
}

#[test]
fn one_of_another_cluster_or_version_is_not_overwritten_and_one_of_fewer_keys_does_not_count() {
    let files = directory(&encode(&header(), &some_versions(), 2));
    let all = open(&files, 7, KeyRange::all()).unwrap();
    assert!(all.header().is_none(), "fewer keys");
    let other = open(&files, 8, KeyRange::point("b".into())).err().unwrap();
    assert!(matches!(other, CheckpointFault::OtherCluster { .. }), "{other}");
    let mut body = format::header(&header());
    body[12] = 99;
    let files = directory(&format::frame(&body).0);
    let other = open(&files, 7, KeyRange::point("b".into())).err().unwrap();
    assert!(
        matches!(other, CheckpointFault::UnknownFormat { found: 99 }),
        "{other}"
    );
}
