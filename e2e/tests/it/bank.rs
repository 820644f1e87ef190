//! Clients move money while services are killed. The sum never changes in any snapshot, and what was
//! acknowledged is there: each transfer writes an entry of its own into a ledger, in the same transaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meridian_client::{Client, Error, ScanOptions, Txn, TxnOptions};
use meridian_e2e::{Cluster, Layout};
use meridian_types::KeyRange;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ACCOUNTS: u64 = 1_000;
const OPENING_BALANCE: i64 = 100;
const CLIENTS: u64 = 32;

/// How long the load lasts, in seconds: `MERIDIAN_BANK_SECONDS`, by default long enough for several kills.
fn duration() -> Duration {
    let seconds = std::env::var("MERIDIAN_BANK_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// What the clients keep: transfers by their ledger key, and what is known of them.
#[derive(Default)]
struct Record {
    acknowledged: BTreeMap<String, Transfer>,
    unknown: BTreeMap<String, Transfer>,
    refused: BTreeMap<String, String>,
    /// The longest time between two commits of one client, and when it ended.
    longest_gap: (Duration, Option<Instant>),
}

#[derive(Clone, Copy)]
struct Transfer {
    from: u64,
    to: u64,
    amount: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sum_never_changes_while_services_are_killed() {
    let mut cluster = Cluster::start(Layout::default()).await;
    let client = cluster.client().await;
    open_accounts(&client).await;

    let stop = Arc::new(AtomicBool::new(false));
    let snapshots = Arc::new(AtomicU64::new(0));
    let mut tellers = Vec::new();
    for number in 0..CLIENTS {
        tellers.push(tokio::spawn(transfer_until(
            cluster.client().await,
            number,
            stop.clone(),
        )));
    }
    let auditor = tokio::spawn(audit_until(
        cluster.client().await,
        stop.clone(),
        snapshots.clone(),
    ));

    let kills = kill_at_random(&mut cluster, duration()).await;
    stop.store(true, Ordering::SeqCst);
    let mut all = Record::default();
    for teller in tellers {
        let record = teller.await.expect("a client does not panic");
        all.acknowledged.extend(record.acknowledged);
        all.unknown.extend(record.unknown);
        all.refused.extend(record.refused);
        all.longest_gap = all.longest_gap.max(record.longest_gap);
    }
    auditor.await.expect("every snapshot had the same sum");

    check_ledger(&client, &all).await;
    assert!(!all.acknowledged.is_empty(), "nothing was committed");
    assert!(snapshots.load(Ordering::SeqCst) > 0, "no snapshot was taken");
    println!(
        "{} transfers acknowledged, {} unknown, {} refused, {} snapshots, {} kills, longest gap between two commits of one client {:?}",
        all.acknowledged.len(),
        all.unknown.len(),
        all.refused.len(),
        snapshots.load(Ordering::SeqCst),
        kills.len(),
        all.longest_gap.0,
    );
    if let (gap, Some(end)) = all.longest_gap {
        let during = kills
            .iter()
            .filter(|(at, _)| *at + gap >= end - gap && *at <= end);
        let names: Vec<String> = during
            .map(|(at, name)| format!("{name} {:.1} s before", (end - *at).as_secs_f64()))
            .collect();
        println!(
            "killed around the longest gap, counted from its end: {}",
            names.join(", ")
        );
    }
    for (entry, why) in all.refused.iter().take(10) {
        println!("refused {entry}: {why}");
    }
}

fn account(number: u64) -> String {
    format!("account/{number:04}")
}

async fn open_accounts(client: &Client) {
    client
        .transact(|txn: Txn| async move {
            for number in 0..ACCOUNTS {
                txn.put(account(number), OPENING_BALANCE.to_string()).await?;
            }
            Ok(())
        })
        .await
        .expect("the accounts are opened");
}

async fn balance(txn: &Txn, number: u64) -> Result<i64, Error> {
    let value = txn.get(account(number)).await?.expect("the account exists");
    Ok(std::str::from_utf8(&value)
        .expect("digits")
        .parse()
        .expect("a number"))
}

async fn transfer_until(client: Client, number: u64, stop: Arc<AtomicBool>) -> Record {
    let mut rng = StdRng::seed_from_u64(number);
    let mut record = Record::default();
    let mut last_commit = Instant::now();
    for count in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let from = rng.random_range(0..ACCOUNTS);
        let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let transfer = Transfer {
            from,
            to,
            amount: rng.random_range(1..=5),
        };
        let entry = format!("ledger/{number:02}/{count:08}");
        let result = client
            .transact(|txn: Txn| {
                let entry = entry.clone();
                async move {
                    let (source, target) = (balance(&txn, from).await?, balance(&txn, to).await?);
                    txn.put(account(from), (source - transfer.amount).to_string())
                        .await?;
                    txn.put(account(to), (target + transfer.amount).to_string())
                        .await?;
                    txn.put(entry, format!("{from} {to} {}", transfer.amount)).await?;
                    Ok(())
                }
            })
            .await;
        match result {
            Ok(_) => {
                let now = Instant::now();
                record.longest_gap = record.longest_gap.max((now - last_commit, Some(now)));
                last_commit = now;
                record.acknowledged.insert(entry, transfer);
            }
            Err(error) if error.is_definite() => {
                record.refused.insert(entry, error.to_string());
            }
            Err(_) => {
                record.unknown.insert(entry, transfer);
            }
        }
    }
    record
}

async fn sum(client: &Client) -> Result<i64, Error> {
    let txn = client.begin(TxnOptions::read_only()).await?;
    let scan = txn
        .scan(KeyRange::prefix("account/".into()), ScanOptions::default())
        .await?;
    let rows = scan.collect().await?;
    assert_eq!(rows.len() as u64, ACCOUNTS);
    Ok(rows
        .iter()
        .map(|row| std::str::from_utf8(&row.value).unwrap().parse::<i64>().unwrap())
        .sum())
}

async fn audit_until(client: Client, stop: Arc<AtomicBool>, snapshots: Arc<AtomicU64>) {
    while !stop.load(Ordering::SeqCst) {
        // A snapshot that cannot be read now (its services are being killed) says nothing.
        if let Ok(sum) = sum(&client).await {
            assert_eq!(sum, ACCOUNTS as i64 * OPENING_BALANCE, "money was made or lost");
            snapshots.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Kills a process that is not a router every few seconds and starts it again. At most one journal node is
/// down at a time: the rest is the quorum.
async fn kill_at_random(cluster: &mut Cluster, duration: Duration) -> Vec<(Instant, String)> {
    let mut rng = StdRng::seed_from_u64(7);
    let names: Vec<String> = cluster
        .nodes()
        .into_iter()
        .filter(|name| !name.starts_with("router"))
        .collect();
    let end = Instant::now() + duration;
    let mut kills = Vec::new();
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..2_000))).await;
        let victim = names[rng.random_range(0..names.len())].clone();
        cluster.kill(&victim);
        kills.push((Instant::now(), victim.clone()));
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
        cluster.start_node(&victim);
    }
    cluster.wait_until_writable().await;
    kills
}

/// Every acknowledged transfer is in the ledger, none that was refused is, and the balances are what the
/// ledger says.
async fn check_ledger(client: &Client, record: &Record) {
    let txn = client.begin(TxnOptions::read_only()).await.unwrap();
    let scan = |prefix: &str| txn.scan(KeyRange::prefix(prefix.into()), ScanOptions::default());
    let ledger = scan("ledger/").await.unwrap().collect().await.unwrap();
    let accounts = scan("account/").await.unwrap().collect().await.unwrap();
    let ledger: BTreeMap<String, Vec<i64>> = ledger
        .iter()
        .map(|row| {
            let numbers = std::str::from_utf8(&row.value)
                .unwrap()
                .split(' ')
                .map(|n| n.parse().unwrap());
            (row.key.to_string(), numbers.collect())
        })
        .collect();
    let mut balances = vec![OPENING_BALANCE; ACCOUNTS as usize];
    for (entry, numbers) in &ledger {
        balances[numbers[0] as usize] -= numbers[2];
        balances[numbers[1] as usize] += numbers[2];
        assert!(
            !record.refused.contains_key(entry),
            "{entry} was refused ({}) and is there",
            record.refused[entry]
        );
        assert!(
            record.acknowledged.contains_key(entry) || record.unknown.contains_key(entry),
            "{entry} was never sent"
        );
    }
    for (entry, transfer) in &record.acknowledged {
        let expected = vec![transfer.from as i64, transfer.to as i64, transfer.amount];
        assert_eq!(
            ledger.get(entry),
            Some(&expected),
            "{entry} was acknowledged and is lost"
        );
    }
    for (row, expected) in accounts.iter().zip(balances) {
        assert_eq!(
            row.value,
            expected.to_string(),
            "{} does not follow from the ledger",
            row.key
        );
    }
}
