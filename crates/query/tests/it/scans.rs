//! Scans over own writes and stored rows, against a plainly written second version, with tiny pages.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_query::Config;
use meridian_rpc::v1::predicate::Op;
use meridian_rpc::v1::{Predicate, ScanRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::cluster::{Cluster, test_config};
use crate::world::holds;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(rng: &mut StdRng) -> String {
    format!("k{:02}", rng.random_range(0..30))
}

fn value(rng: &mut StdRng) -> String {
    "abcd"[..rng.random_range(0..4)].to_owned()
}

fn request(rng: &mut StdRng) -> ScanRequest {
    let mut bound = |often: f64| {
        if rng.random_bool(often) {
            key(rng)
        } else {
            String::new()
        }
    };
    let (start, end) = (bound(0.7), bound(0.7));
    let predicates = (0..rng.random_range(0..3)).map(|_| Predicate {
        op: [Op::Prefix, Op::Less, Op::NotEqual][rng.random_range(0..3)].into(),
        operand: value(rng).into(),
    });
    let predicates = predicates.collect();
    ScanRequest {
        start: start.into(),
        end: end.into(),
        limit: if rng.random_bool(0.5) {
            rng.random_range(1..8)
        } else {
            0
        },
        reverse: rng.random(),
        keys_only: rng.random_bool(0.3),
        count_only: rng.random_bool(0.3),
        predicates: if rng.random_bool(0.5) { predicates } else { vec![] },
        ..ScanRequest::default()
    }
}

fn expected(model: &Model, request: &ScanRequest) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows: Vec<_> = model
        .iter()
        .filter(|(key, _)| key[..] >= request.start[..])
        .filter(|(key, _)| request.end.is_empty() || key[..] < request.end[..])
        .filter(|(_, value)| request.predicates.iter().all(|predicate| holds(predicate, value)))
        .map(|(key, value)| {
            (
                key.clone(),
                if request.keys_only { vec![] } else { value.clone() },
            )
        })
        .collect();
    if request.reverse {
        rows.reverse();
    }
    if request.limit > 0 {
        rows.truncate(request.limit as usize);
    }
    rows
}

#[tokio::test]
async fn any_scan_equals_the_plain_one() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let config = Config {
            page_bytes: rng.random_range(1..60),
            ..test_config()
        };
        let cluster = Cluster::with(config).await;
        cluster.world.core().page_rows = rng.random_range(1..6);
        let mut model = Model::new();
        for _ in 0..rng.random_range(0..25) {
            let (key, value) = (key(&mut rng), value(&mut rng));
            cluster.world.put(&key, &value);
            model.insert(key.into(), value.into());
        }
        let mut txn = if rng.random() {
            cluster.begin().await
        } else {
            cluster.serializable().await
        };
        txn.get("k00").await.unwrap();
        // Committed after the snapshot: not to be seen.
        cluster.world.put("k15", "later");
        for _ in 0..12 {
            for _ in 0..rng.random_range(0..5) {
                let key = key(&mut rng);
                if rng.random_bool(0.4) {
                    txn.delete(&key).await.unwrap();
                    model.remove(key.as_bytes());
                } else {
                    let value = value(&mut rng);
                    txn.put(&key, &value).await.unwrap();
                    model.insert(key.into(), value.into());
                }
            }
            let request = request(&mut rng);
            let wanted = expected(&model, &request);
            let (rows, count) = txn.scan(request.clone()).await.unwrap();
            assert_eq!(count, wanted.len() as u64, "seed {seed}: {request:?}");
            if !request.count_only {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| (row.key.to_vec(), row.value.to_vec()))
                    .collect();
                assert_eq!(rows, wanted, "seed {seed}: {request:?}");
            } else {
                assert!(rows.is_empty());
            }
        }
    }
}

/// What a limited scan did not come to is not checked; what it came to is.
#[tokio::test]
async fn a_limited_serializable_scan_checks_what_it_read() {
    for (limit, reverse, written, conflicts) in [
        (2, false, "k2", true),
        (2, false, "k15", true),
        (2, false, "k3", false),
        (2, true, "k8", true),
        (2, true, "k7", false),
        (0, false, "k9", true),
        (100, true, "k0", true),
    ] {
        let cluster = Cluster::start().await;
        for n in 1..10 {
            cluster.world.put(&format!("k{n}"), "v");
        }
        let mut txn = cluster.serializable().await;
        let request = ScanRequest {
            start: "k".into(),
            end: "l".into(),
            limit,
            reverse,
            ..ScanRequest::default()
        };
        txn.scan(request).await.unwrap();
        txn.put("out", "1").await.unwrap();
        cluster.world.put(written, "changed");
        assert_eq!(
            txn.commit().await.is_err(),
            conflicts,
            "limit {limit} reverse {reverse}: {written}"
        );
    }
}

#[tokio::test]
async fn own_rows_do_not_make_a_page_too_large() {
    let cluster = Cluster::start().await;
    let mut txn = cluster.begin().await;
    let large = "x".repeat(200_000);
    for n in 0..20 {
        txn.put(&format!("k{n:02}"), &large).await.unwrap();
    }
    let transaction = txn.handle();
    let request = ScanRequest {
        transaction,
        ..ScanRequest::default()
    };
    let mut pages = txn.client.scan(request).await.unwrap().into_inner();
    let mut rows = 0;
    while let Some(page) = pages.message().await.unwrap() {
        let bytes: usize = page.rows.iter().map(|row| row.value.len()).sum();
        assert!(bytes <= 400_000, "{bytes}");
        rows += page.rows.len();
    }
    assert_eq!(rows, 20);
}

#[tokio::test]
async fn bad_scans_are_refused() {
    let cluster = Cluster::start().await;
    let mut txn = cluster.begin().await;
    let unknown = Predicate {
        op: 77,
        operand: Bytes::new(),
    };
    assert!(
        txn.scan(ScanRequest {
            predicates: vec![unknown],
            ..ScanRequest::default()
        })
        .await
        .is_err()
    );
    let long = vec![b'k'; 5_000];
    assert!(
        txn.scan(ScanRequest {
            start: long.into(),
            ..ScanRequest::default()
        })
        .await
        .is_err()
    );
    let inverted = ScanRequest {
        start: "b".into(),
        end: "a".into(),
        ..ScanRequest::default()
    };
    assert_eq!(txn.scan(inverted).await.unwrap(), (vec![], 0));
}

/// Own writes fill the limit before the stored page is used up: what storage sent beyond was not read.
#[tokio::test]
async fn own_writes_that_fill_the_limit_cut_what_is_checked() {
    for (reverse, own, written, conflicts) in [
        (false, ["k11", "k12"], "k2", false),
        (false, ["k11", "k12"], "k1", true),
        (true, ["k91", "k92"], "k9", false),
        (true, ["k85", "k86"], "k9", true),
    ] {
        let cluster = Cluster::start().await;
        for n in 1..10 {
            cluster.world.put(&format!("k{n}"), "v");
        }
        let mut txn = cluster.serializable().await;
        for key in own {
            txn.put(key, "own").await.unwrap();
        }
        let limit = 2;
        let request = ScanRequest {
            limit,
            reverse,
            ..ScanRequest::default()
        };
        assert_eq!(txn.scan(request).await.unwrap().1, limit);
        cluster.world.put(written, "changed");
        assert_eq!(
            txn.commit().await.is_err(),
            conflicts,
            "reverse {reverse}: {written}"
        );
    }
}
