//! List-append: a key holds a list, every element is unique, so each read tells the order of all writes before it.

use std::cell::Cell;

use rand::Rng;
use rand::rngs::StdRng;

use super::LISTS;
use super::recorded::Handle;
use super::recorder::Recorder;
use crate::history::Mode;

/// A list that is longer than this is left alone, and a new one begun.
const LONG: usize = 60;

/// Which list of each key is in use.
pub struct Generations(Vec<Cell<usize>>);

impl Generations {
    /// The first of each.
    pub fn new(keys: usize) -> Self {
        Self(vec![Cell::default(); keys])
    }
}

/// A few reads and appends.
pub async fn step(recorder: &mut Recorder, rng: &mut StdRng, generations: &Generations, number: u64) {
    let is_read_only = rng.random_bool(0.3);
    let name = recorder.name.replace("lists-", "");
    let mode = Mode {
        serializable: !is_read_only && rng.random_bool(0.3),
        read_only: is_read_only,
        past: None,
    };
    let Some(txn) = recorder.begin(mode).await else {
        return;
    };
    let for_update = !is_read_only && rng.random_bool(0.2);
    for place in 0..rng.random_range(1..=4) {
        let index = rng.random_range(0..generations.0.len());
        let append = (!is_read_only && rng.random_bool(0.6)).then(|| format!("{name}.{number}.{place}"));
        if let Err(error) = touch(&txn, generations, index, append, for_update).await {
            txn.give_up(&error);
            return;
        }
    }
    match !is_read_only && rng.random_bool(0.05) {
        true => txn.rollback().await,
        false => {
            txn.commit().await;
        }
    }
}

async fn touch(
    txn: &Handle,
    generations: &Generations,
    index: usize,
    append: Option<String>,
    for_update: bool,
) -> Result<(), meridian_client::Error> {
    let Some(generation) = generations.0.get(index) else {
        return Ok(());
    };
    let key = format!("{LISTS}{index:02}/{:03}", generation.get());
    let present = match for_update {
        true => txn.get_for_update(&key).await?,
        false => txn.get(&key).await?,
    };
    let elements = present.as_ref().map_or(0, |list| list.split(' ').count());
    if let Some(element) = append {
        let list = match present {
            Some(list) => format!("{list} {element}"),
            None => element,
        };
        txn.put(&key, list).await?;
    }
    if elements > LONG {
        generation.set(generation.get() + 1);
    }
    Ok(())
}
