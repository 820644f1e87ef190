//! Pages, directions and pushed-down work.

use bytes::Bytes;
use meridian_rpc::KvError;
use meridian_rpc::internal::{ScanKeys, ScannedPage};
use meridian_rpc::v1::Predicate;
use meridian_rpc::v1::predicate::Op;
use meridian_storage::Config;

use crate::world::{NOW, Node, Reader, World};

/// Long enough ago for R4 not to matter.
const AGO: u64 = NOW - 10_000_000;

/// Keys `k000` to `k299` with their number as value; every third one deleted later, at AGO + 1.
async fn filled(config: Config) -> (World, Node, Reader) {
    let world = World::new();
    let node = world.start(Config { ..config });
    let keys: Vec<String> = (0..300).map(|n| format!("k{n:03}")).collect();
    let values: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let rows: Vec<_> = keys
        .iter()
        .zip(&values)
        .map(|(k, v)| (k.as_str(), Some(v.as_str())))
        .collect();
    world.commit(AGO, &rows);
    let deleted: Vec<_> = keys.iter().step_by(3).map(|key| (key.as_str(), None)).collect();
    world.commit(AGO + 1, &deleted);
    let reader = node.reader().await;
    (world, node, reader)
}

/// All pages of a scan, following `resume`.
async fn pages(reader: &mut Reader, at: u64, mut scan: ScanKeys) -> Vec<ScannedPage> {
    let mut pages = Vec::new();
    loop {
        let page = reader.scan(at, scan.clone()).await.unwrap();
        pages.push(page.clone());
        if !page.more {
            return pages;
        }
        assert!(!page.resume.is_empty());
        if scan.reverse {
            scan.end = page.resume;
        } else {
            scan.start = page.resume;
        }
    }
}

fn keys(pages: &[ScannedPage]) -> Vec<Bytes> {
    pages
        .iter()
        .flat_map(|page| page.rows.iter().map(|row| row.key.clone()))
        .collect()
}

fn expected(at: u64) -> Vec<Bytes> {
    let numbers = (0..300).filter(|n| at == AGO || n % 3 != 0);
    numbers.map(|n| Bytes::from(format!("k{n:03}"))).collect()
}

#[tokio::test]
async fn pages_are_bounded_and_join_without_gap_or_repeat_in_both_directions() {
    let config = World::new().config();
    let (_world, _node, mut reader) = filled(config).await;
    for at in [AGO, AGO + 1] {
        for (limit, page_bytes) in [(0, 0), (7, 0), (0, 300), (1, 1)] {
            for reverse in [false, true] {
                let scan = ScanKeys {
                    limit,
                    page_bytes,
                    reverse,
                    ..ScanKeys::default()
                };
                let pages = pages(&mut reader, at, scan).await;
                let mut found = keys(&pages);
                if reverse {
                    found.reverse();
                }
                assert_eq!(
                    found,
                    expected(at),
                    "limit {limit}, {page_bytes} bytes, reverse {reverse}"
                );
                let largest = pages.iter().map(|page| page.rows.len()).max().unwrap();
                match (limit, page_bytes) {
                    (0, 0) => assert_eq!(pages.len(), 1),
                    (0, 300) => assert!(largest <= 12 && pages.len() > 10, "{largest} rows in a page"),
                    (limit, _) => assert!(largest <= limit as usize),
                }
            }
        }
    }
}

#[tokio::test]
async fn bounds_are_start_included_and_end_excluded() {
    let config = World::new().config();
    let (_world, _node, mut reader) = filled(config).await;
    for reverse in [false, true] {
        let scan = ScanKeys {
            start: "k010".into(),
            end: "k013".into(),
            reverse,
            ..ScanKeys::default()
        };
        let mut found = keys(&pages(&mut reader, AGO, scan).await);
        found.sort();
        assert_eq!(found, ["k010", "k011", "k012"]);
        let inverted = ScanKeys {
            start: "k5".into(),
            end: "k1".into(),
            reverse,
            ..ScanKeys::default()
        };
        assert_eq!(
            keys(&pages(&mut reader, AGO, inverted).await),
            Vec::<Bytes>::new()
        );
    }
}

#[tokio::test]
async fn rows_carry_values_and_timestamps_unless_only_keys_are_wanted() {
    let config = World::new().config();
    let (_world, _node, mut reader) = filled(config).await;
    let scan = ScanKeys {
        start: "k010".into(),
        limit: 1,
        ..ScanKeys::default()
    };
    let page = reader.scan(AGO + 1, scan.clone()).await.unwrap();
    assert_eq!(
        (page.count, page.rows[0].value.as_ref(), page.rows[0].timestamp),
        (1, &b"10"[..], AGO)
    );
    let page = reader
        .scan(
            AGO + 1,
            ScanKeys {
                keys_only: true,
                ..scan
            },
        )
        .await
        .unwrap();
    assert_eq!(
        (page.rows[0].key.as_ref(), page.rows[0].value.len()),
        (&b"k010"[..], 0)
    );
}

#[tokio::test]
async fn counting_moves_no_rows_and_its_pages_are_bounded_in_work() {
    let config = Config {
        page_keys: 50,
        ..World::new().config()
    };
    let (_world, _node, mut reader) = filled(config).await;
    let counted = pages(
        &mut reader,
        AGO + 1,
        ScanKeys {
            count_only: true,
            ..ScanKeys::default()
        },
    )
    .await;
    assert_eq!(counted.iter().map(|page| page.count).sum::<u64>(), 200);
    assert!(counted.len() >= 6, "{} pages", counted.len());
    assert!(counted.iter().all(|page| page.rows.is_empty()));
    let limited = ScanKeys {
        count_only: true,
        limit: 5,
        ..ScanKeys::default()
    };
    assert_eq!(reader.scan(AGO + 1, limited).await.unwrap().count, 5);
}

#[tokio::test]
async fn predicates_reject_rows_and_still_make_progress() {
    let config = Config {
        page_keys: 50,
        ..World::new().config()
    };
    let (_world, _node, mut reader) = filled(config).await;
    let test = |op: Op, operand: &'static str| Predicate {
        op: op as i32,
        operand: operand.into(),
    };
    for reverse in [false, true] {
        let scan = |predicates| ScanKeys {
            predicates,
            reverse,
            ..ScanKeys::default()
        };
        let both = pages(
            &mut reader,
            AGO,
            scan(vec![test(Op::Prefix, "2"), test(Op::Contains, "99")]),
        )
        .await;
        assert_eq!(keys(&both), ["k299"]);
        let none = pages(&mut reader, AGO, scan(vec![test(Op::Equal, "nothing")])).await;
        assert!(keys(&none).is_empty() && none.len() >= 6, "{} pages", none.len());
        let less = pages(&mut reader, AGO, scan(vec![test(Op::Less, "10")])).await;
        assert_eq!(keys(&less).len(), 2, "bytewise: 0 and 1");
    }
    let unknown = ScanKeys {
        predicates: vec![Predicate {
            op: 77,
            operand: Bytes::new(),
        }],
        ..ScanKeys::default()
    };
    assert!(matches!(
        reader.scan(AGO, unknown).await,
        Err(KvError::Invalid { .. })
    ));
}
