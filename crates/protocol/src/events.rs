//! What services log of the protocol, as it happens: the facts that its invariants speak of.
//!
//! Each is a `tracing` event of level trace with the target [`TARGET`], a field `event` that names it, and the fields
//! below: numbers as numbers, keys and lists as their `Debug`. Nobody needs them to run; where they are not
//! collected they cost a look at whether they are. The simulation collects all of them and judges I1 to I9 by them
//! (`sim-tests/src/events.rs` reads them, `sim-tests/src/invariants` judges), so a name or a field is changed there as well.
//!
//! | event | who | fields | when |
//! |---|---|---|---|
//! | `booted` | query processor | | it starts, and remembers no transaction |
//! | `started` | query processor | txn, start, present | a snapshot is fixed (R1); not `present`: an older one was asked for |
//! | `ended` | query processor | txn, start, outcome, commit | it tells how a transaction ended, after R3's wait |
//! | `told` | query processor | txn, outcome, commit | it answers who asks for the outcome of a transaction, after R3's wait |
//! | `opening` | adjudicator | stream, epoch, lsn, adopted_epoch, adopted_lsn, floor, lease_end, map, resumed, handed | it has won a fence and appends `Opened`, which names version `map` of the range map, after the adopted log; `resumed`: it was the owner and keeps its soft state; `handed`: it goes on with the state that the owner before it has handed over |
//! | `serving` | adjudicator | stream, epoch, floor, window_low, lease_end | its `Opened` is committed |
//! | `leased` | adjudicator | stream, epoch, lease_end | a `Lease` record is committed: it may be relied on |
//! | `decided` | adjudicator | stream, epoch, lsn, txn, attempt, start, commit, written, checked, participants | a transaction commits if the record at `lsn` does (R2); `written` names the keys of all ranges, `checked` those of this one, `participants` the streams of the others, if any |
//! | `voted` | adjudicator | stream, epoch, txn, attempt, home, home_epoch, start, lower, promise, written, checked | it votes yes on an attempt whose home is another stream, perhaps once more (5.1) |
//! | `prepare_ended` | adjudicator | stream, epoch, txn, attempt, home, home_epoch, outcome, commit, lsn | it applies what became of an attempt that it has voted on (5.4); `unknown`: its home has forgotten |
//! | `raised` | adjudicator | stream, epoch, floor, lsn | it promises that nothing commits at or below `floor` after `lsn`, once that is committed (R19) |
//! | `barred` | adjudicator | stream, epoch, lsn, txn | no attempt of the transaction ever commits if the record at `lsn` is committed |
//! | `given_up` | adjudicator | stream, epoch, txn, attempt, home_epoch | it says of one attempt that it will never commit |
//! | `named` | adjudicator | stream, epoch, map | a record of its own is committed that names this version of the range map: it votes for the homes in it (5.1) |
//! | `released` | adjudicator | stream, epoch, lsn, floor, sealed, window_low | it appends `Released`, or `Sealed`, its last act in the epoch |
//! | `mapped` | adjudicator | stream, epoch, lsn, map | the range map is this one from the record at `lsn` on, if that is committed; encoded as in the record |
//! | `answered` | adjudicator | stream, epoch, lsn, commit | it says that the transaction's record, an entry of `epoch`, is committed |
//! | `closed` | adjudicator | stream, range, epoch, x, after | a closure leaves (R13) |
//! | `stopped` | adjudicator | stream, epoch | it decides and closes nothing more in this epoch |
//! | `counted` | adjudicator, journal node | stream, owner_epoch, epoch, lsn | by what the owner of `owner_epoch` knows, its log is committed up to this entry |
//! | `mounted` | journal node | disk | it starts on this disk |
//! | `recovered` | journal node | stream, promised, epoch, lsn | it has found this on its disk: the promise and the last entry |
//! | `promised` | journal node | stream, epoch | it has synced the promise |
//! | `accepted` | journal node | stream, owner_epoch, epoch, lsn | it accepts an append of the owner of `owner_epoch`; when that is synced, its log equals the owner's up to this entry |
//! | `persisted` | journal node | stream, epoch, lsn, timestamp | it has synced an entry, which replaces what it held from there on |
//! | `trimmed` | journal node | stream, epoch, lsn | its base file is durable in which the log of the stream begins after this entry (decision 28) |
//! | `begun` | journal node | stream, epoch, lsn | it has synced that its log begins after this entry, as its owner's does, and that what it held does not count |
//! | `restored` | storage node | stream, epoch, lsn | it starts with everything applied up to this entry, 0 for nothing; or was filled from a checkpoint, which holds everything up to there |
//! | `followed` | storage node | stream, lsn | it begins to follow a stream that it did not know when it started, with everything applied up to this entry |
//! | `applied` | storage node | stream, epoch, lsn, commit, written | it takes an entry; `commit` is 0 and nothing written unless it is a transaction's |
//! | `checkpointed` | storage node | node, stream, epoch, lsn | a checkpoint is durable and was read back: it holds every write of its keys up to this entry; one of each stream. Again for the one that it finds when it starts |
//! | `complete` | storage node | range, epoch, x, after | it takes a closure, after everything that it was fed before (R14) |
//! | `looked_up` | storage node | at, key, newest | it has read a key at a snapshot; `newest` is the version it found, 0 for none |
//! | `scanned` | storage node | at, start, end, newest | it has read these keys at a snapshot, all after `start` if there is no `end`; `newest` is the newest version that the scan has met so far |
//! | `shown` | storage node | at, newest | it answers a read, after R4's wait |
//!
//! A transaction id is one number (u128); `outcome` is `committed`, `aborted` or `unknown`.

/// The target of all of these events.
pub const TARGET: &str = "meridian::protocol";
