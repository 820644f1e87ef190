//! Storage nodes that hold a part of the keys each. The stand-ins fail a test that asks them for others.

use bytes::Bytes;
use meridian_rpc::v1::{BatchGetRequest, ScanRequest};
use meridian_types::{Key, KeyRange};

use crate::cluster::{Cluster, Txn};
use crate::world::ReadScript;

/// The overlap belongs to the first two.
fn parts() -> Vec<KeyRange> {
    [("", "h"), ("f", "p"), ("p", "")]
        .map(|(start, end)| KeyRange {
            start: start.into(),
            end: Some(end).filter(|end| !end.is_empty()).map(Key::from),
        })
        .to_vec()
}

async fn filled() -> Cluster {
    let cluster = Cluster::with_storage(&parts()).await;
    let mut txn = cluster.begin().await;
    for letter in 'a'..='z' {
        txn.put(&letter.to_string(), &format!("v{letter}")).await.unwrap();
    }
    txn.commit().await.unwrap();
    cluster
}

async fn scanned(txn: &mut Txn, request: ScanRequest) -> (String, u64) {
    let (rows, count) = txn.scan(request).await.unwrap();
    let keys: Vec<_> = rows
        .iter()
        .map(|row| String::from_utf8_lossy(&row.key).into_owned())
        .collect();
    (keys.concat(), count)
}

fn between(start: &'static str, end: &'static str) -> ScanRequest {
    ScanRequest {
        start: Bytes::from_static(start.as_bytes()),
        end: Bytes::from_static(end.as_bytes()),
        ..ScanRequest::default()
    }
}

#[tokio::test]
async fn a_scan_goes_through_all_of_them_in_its_direction() {
    let cluster = filled().await;
    let mut txn = cluster.begin().await;
    txn.put("gg", "own").await.unwrap();
    txn.delete("p").await.unwrap();
    let all = "abcdefggghijklmnoqrstuvwxyz";
    assert_eq!(scanned(&mut txn, between("", "")).await, (all.to_owned(), 26));
    let reverse = ScanRequest {
        reverse: true,
        ..between("", "")
    };
    assert_eq!(
        scanned(&mut txn, reverse).await,
        ("zyxwvutsrqonmlkjihgggfedcba".to_owned(), 26)
    );
    let limited = ScanRequest {
        limit: 9,
        reverse: true,
        ..between("c", "s")
    };
    assert_eq!(scanned(&mut txn, limited).await, ("rqonmlkji".to_owned(), 9));
    assert_eq!(scanned(&mut txn, between("i", "k")).await, ("ij".to_owned(), 2));
    let counted = ScanRequest {
        count_only: true,
        ..between("e", "t")
    };
    assert_eq!(scanned(&mut txn, counted.clone()).await.1, 15);
    let mut other = cluster.begin().await;
    assert_eq!(scanned(&mut other, counted.clone()).await.1, 15);
    let few = ScanRequest { limit: 7, ..counted };
    assert_eq!(scanned(&mut other, few).await.1, 7);
}

#[tokio::test]
async fn a_batch_comes_back_in_its_order_and_who_overlaps_stands_in() {
    let cluster = filled().await;
    let mut txn = cluster.begin().await;
    let keys = ["z", "a", "none", "g", "p", "n"];
    let request = BatchGetRequest {
        transaction: txn.handle(),
        keys: keys.map(|key| Bytes::from_static(key.as_bytes())).to_vec(),
        ..BatchGetRequest::default()
    };
    let got = txn.client.batch_get(request).await.unwrap().into_inner();
    let values: Vec<_> = got
        .values
        .iter()
        .map(|value| value.value.as_deref().unwrap_or(b"-"))
        .collect();
    assert_eq!(values, [&b"vz"[..], b"va", b"-", b"vg", b"vp", b"vn"]);

    // "g" is at two of them.
    for node in ["st-1", "st-2"] {
        for _ in 0..2 {
            let script = [ReadScript::Unavailable, ReadScript::Unavailable].into();
            cluster.world.core().reads.insert(node, script);
            assert_eq!(txn.get("g").await.unwrap().as_deref(), Some("vg"), "{node}");
        }
    }
    // "z" is at one only: it is asked until it answers.
    cluster
        .world
        .core()
        .reads
        .insert("st-3", [ReadScript::Unavailable].into());
    assert_eq!(txn.get("z").await.unwrap().as_deref(), Some("vz"));
}

#[tokio::test]
async fn a_key_that_nobody_holds_is_named() {
    let parts = &parts()[..2];
    let cluster = Cluster::with_storage(parts).await;
    let mut txn = cluster.begin().await;
    let error = txn.get("q").await.unwrap_err().to_string();
    assert!(
        error.contains("no storage node of this region holds key q"),
        "{error}"
    );
}
