//! From fields to events. Nothing is guessed: a field that is missing is an error.

use meridian_protocol::closing::Closure;
use meridian_types::{Epoch, KeyRange, Lsn, Position, RangeId, StreamId, Timestamp};

use super::{Decided, Event, Fields, Outcome, Voted};

/// The event that has these fields.
pub fn read(fields: &Fields) -> Result<Event, String> {
    match fields.text("event")? {
        "booted" => Ok(Event::Booted),
        "started" => Ok(Event::Started {
            txn: fields.txn()?,
            start: fields.timestamp("start")?,
            present: fields.flag("present")?,
        }),
        "ended" => Ok(Event::Ended {
            txn: fields.txn()?,
            start: fields.timestamp("start")?,
            outcome: outcome(fields)?,
        }),
        "told" => Ok(Event::Told {
            txn: fields.txn()?,
            outcome: outcome(fields)?,
        }),
        "counted" => Ok(Event::Counted {
            stream: fields.stream()?,
            owner: fields.epoch("owner_epoch")?,
            at: fields.position()?,
        }),
        name @ ("voted" | "prepare_ended" | "raised" | "named" | "mapped") => across_ranges(name, fields),
        name @ ("opening" | "serving" | "leased" | "decided" | "barred" | "given_up" | "released"
        | "answered" | "closed" | "stopped") => adjudicator(name, fields),
        name @ ("mounted" | "recovered" | "promised" | "accepted" | "persisted" | "trimmed" | "begun") => {
            journal(name, fields)
        }
        name => storage(name, fields),
    }
}

fn outcome(fields: &Fields) -> Result<Outcome, String> {
    match fields.text("outcome")? {
        "committed" => Ok(Outcome::Committed(fields.timestamp("commit")?)),
        "aborted" => Ok(Outcome::Aborted),
        "unknown" => Ok(Outcome::Unknown),
        other => Err(format!("{other:?} is no outcome in {fields}")),
    }
}

fn closure(fields: &Fields) -> Result<Closure, String> {
    Ok(Closure {
        range: RangeId(fields.number("range")?),
        epoch: fields.epoch("epoch")?,
        x: fields.timestamp("x")?,
        after: fields.after()?,
    })
}

fn attempt(fields: &Fields) -> Result<u32, String> {
    u32::try_from(fields.number("attempt")?).map_err(|error| format!("attempt: {error} in {fields}"))
}

fn adjudicator(name: &str, fields: &Fields) -> Result<Event, String> {
    let stream = fields.stream()?;
    let epoch: Epoch = fields.epoch("epoch")?;
    let timestamp = |name: &str| -> Result<Timestamp, String> { fields.timestamp(name) };
    Ok(match name {
        "opening" => Event::Opening {
            stream,
            at: fields.position()?,
            adopted: Position::new(fields.number("adopted_epoch")?, fields.number("adopted_lsn")?),
            floor: timestamp("floor")?,
            lease_end: timestamp("lease_end")?,
            map: fields.number("map")?,
            resumed: fields.flag("resumed")?,
            handed: fields.flag("handed")?,
        },
        "serving" => Event::Serving {
            stream,
            epoch,
            floor: timestamp("floor")?,
            window_low: timestamp("window_low")?,
            lease_end: timestamp("lease_end")?,
        },
        "leased" => Event::Leased {
            stream,
            epoch,
            lease_end: timestamp("lease_end")?,
        },
        "decided" => Event::Decided(Decided {
            stream,
            at: fields.position()?,
            txn: fields.txn()?,
            attempt: attempt(fields)?,
            start: timestamp("start")?,
            commit: timestamp("commit")?,
            written: fields.keys("written")?,
            checked: fields.ranges("checked")?,
            participants: fields.streams_if_any("participants")?,
        }),
        "barred" => Event::Barred {
            stream,
            at: fields.position()?,
            txn: fields.txn()?,
        },
        "given_up" => Event::GivenUp {
            stream,
            epoch,
            txn: fields.txn()?,
            attempt: attempt(fields)?,
            home_epoch: fields.epoch("home_epoch")?,
        },
        "released" => Event::Released {
            stream,
            at: fields.position()?,
            floor: timestamp("floor")?,
            sealed: fields.flag("sealed")?,
            window_low: timestamp("window_low")?,
        },
        "answered" => Event::Answered {
            stream,
            at: fields.position()?,
            commit: timestamp("commit")?,
        },
        "closed" => Event::Closed {
            stream,
            closure: closure(fields)?,
        },
        _ => Event::Stopped { stream, epoch },
    })
}

/// Between the ranges of one transaction, what a new owner wants of the others, and how the ranges change.
fn across_ranges(name: &str, fields: &Fields) -> Result<Event, String> {
    let stream = fields.stream()?;
    let epoch = fields.epoch("epoch")?;
    if name == "named" {
        let map = fields.number("map")?;
        return Ok(Event::Named { stream, epoch, map });
    }
    if name == "mapped" {
        let map = meridian_rpc::meta::decode(&fields.key("map")?.0).map_err(|error| error.to_string())?;
        return Ok(Event::Mapped {
            stream,
            at: fields.position()?,
            map: Box::new(map),
        });
    }
    if name == "raised" {
        return Ok(Event::Raised {
            stream,
            epoch,
            floor: fields.timestamp("floor")?,
            lsn: Lsn(fields.number("lsn")?),
        });
    }
    let (txn, attempt) = (fields.txn()?, attempt(fields)?);
    let home = StreamId(fields.number("home")?);
    let home_epoch = fields.epoch("home_epoch")?;
    Ok(match name {
        "voted" => Event::Voted(Voted {
            stream,
            epoch,
            txn,
            attempt,
            home,
            home_epoch,
            start: fields.timestamp("start")?,
            lower: fields.timestamp("lower")?,
            promise: fields.timestamp("promise")?,
            written: fields.keys("written")?,
            checked: fields.ranges("checked")?,
        }),
        _ => Event::PrepareEnded {
            stream,
            epoch,
            txn,
            attempt,
            home,
            home_epoch,
            outcome: outcome(fields)?,
        },
    })
}

fn journal(name: &str, fields: &Fields) -> Result<Event, String> {
    Ok(match name {
        "mounted" => Event::Mounted {
            disk: fields.wide("disk")?,
        },
        "recovered" => Event::Recovered {
            stream: fields.stream()?,
            promised: fields.epoch("promised")?,
            last: fields.position()?,
        },
        "promised" => Event::Promised {
            stream: fields.stream()?,
            epoch: fields.epoch("epoch")?,
        },
        "accepted" => Event::Accepted {
            stream: fields.stream()?,
            owner: fields.epoch("owner_epoch")?,
            matched: fields.position()?,
        },
        "trimmed" => Event::Trimmed {
            stream: fields.stream()?,
            at: fields.position()?,
        },
        "begun" => Event::Begun {
            stream: fields.stream()?,
            at: fields.position()?,
        },
        _ => Event::Persisted {
            stream: fields.stream()?,
            at: fields.position()?,
            timestamp: fields.timestamp("timestamp")?,
        },
    })
}

fn storage(name: &str, fields: &Fields) -> Result<Event, String> {
    Ok(match name {
        "restored" => Event::Restored {
            stream: fields.stream()?,
            at: fields.position()?,
        },
        "checkpointed" => Event::Checkpointed {
            stream: fields.stream()?,
            at: fields.position()?,
        },
        "followed" => Event::Followed {
            stream: fields.stream()?,
            lsn: Lsn(fields.number("lsn")?),
        },
        "applied" => Event::Applied {
            stream: fields.stream()?,
            at: fields.position()?,
            commit: fields.timestamp("commit")?,
            written: fields.keys("written")?,
        },
        "complete" => Event::Complete(closure(fields)?),
        "looked_up" => Event::LookedUp {
            at: fields.timestamp("at")?,
            key: fields.key("key")?,
            newest: fields.timestamp("newest")?,
        },
        "scanned" => Event::Scanned {
            at: fields.timestamp("at")?,
            keys: KeyRange {
                start: fields.key("start")?,
                end: fields.key_if_any("end")?,
            },
            newest: fields.timestamp("newest")?,
        },
        "shown" => Event::Shown {
            at: fields.timestamp("at")?,
            newest: fields.timestamp("newest")?,
        },
        other => return Err(format!("{other:?} is no event that is known here: {fields}")),
    })
}
