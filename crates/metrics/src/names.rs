//! Every metric there is: its name, its unit (last in the name), its labels, who has it and what it means. `docs/metrics.md` is this
//! table in another form; a test keeps the two, the dashboard and the alerts alike.

use crate::{Family, Kind};

/// Bounds for what takes between a quarter of a millisecond and some seconds: calls, commits, syncs.
const LATENCIES: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Bounds for passes of a loop, which should take microseconds.
const PASSES: &[f64] = &[
    0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25,
];
/// Bounds for how many.
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_024.0];
const COUNTER: Kind = Kind::Counter;
const GAUGE: Kind = Kind::Gauge;
const LATENCY: Kind = Kind::Histogram(LATENCIES);
const PASS: Kind = Kind::Histogram(PASSES);
const SIZE: Kind = Kind::Histogram(SIZES);

const ALL_ROLES: &[&str] = &[];
const JOURNAL: &[&str] = &["journal"];
const ADJUDICATOR: &[&str] = &["adjudicator"];
const STORAGE: &[&str] = &["storage"];
const QUERY: &[&str] = &["query"];
const ROUTER: &[&str] = &["router"];

/// Those that are there from the start.
const ALWAYS: &str = "";
const KEEPS_FILES: &str = "it has a data directory";
const OWNS: &str = "it owns the range";
const HAS_STREAM: &str = "it holds the stream";
const FOLLOWS: &str = "the range map names the stream";

/// Why a commit was tried once more, as [`QUERY_RETRIES`] tells them apart.
pub const RETRIES: &[&str] = &["another_owner", "given_up", "held", "not_ready", "not_sent"];
/// How an adjudicator answered, as [`ADJUDICATOR_ANSWERS`] tells it apart. Beside `committed` (and `voted`, to be committed elsewhere), and
/// `unknown`, whose asker has to ask again, these are the reasons of a refusal.
pub const ANSWERS: &[&str] = &[
    "committed",
    "voted",
    "unknown",
    "WRONG_EPOCH",
    "CONFLICT",
    "HELD",
    "SNAPSHOT_TOO_OLD",
    "FORGOTTEN",
    "BARRED",
    "OVERLOADED",
    "START_AHEAD",
    "INVALID",
    "NOT_READY",
    "GAVE_UP",
    "REASON_UNSPECIFIED",
];
/// What came of looking for an owner, as [`ADJUDICATOR_TAKEOVERS`] tells it apart.
pub const TAKEOVERS: &[&str] = &["won", "owned_elsewhere", "failed"];
/// What an owner began an epoch with, as [`ADJUDICATOR_EPOCHS`] tells it apart.
pub const EPOCHS: &[&str] = &["anew", "handed_over", "resumed"];
/// What came of writing a checkpoint, as [`STORAGE_CHECKPOINTS`] tells it apart.
pub const CHECKPOINTS: &[&str] = &["written", "failed"];
/// Why a router refused, as [`ROUTER_REFUSED`] tells it apart.
pub const REFUSALS: &[&str] = &["overloaded", "draining"];
/// Operations of a session, as [`QUERY_OPERATION`] tells them apart.
pub const OPERATIONS: &[&str] = &[
    "get",
    "batch_get",
    "delete_range",
    "scan_page",
    "commit",
    "execute",
    "outcome",
];

macro_rules! families {
    ($($name:ident: $kind:ident $text:literal [$($label:literal),*] $roles:ident $only:ident, $help:literal;)*) => {
        $(#[doc = $help] pub static $name: Family = Family {
            name: $text,
            kind: $kind,
            labels: &[$($label),*],
            roles: $roles,
            only: $only,
            help: $help,
        };)*

        /// All of them.
        pub static ALL: &[&Family] = &[$(&$name),*];
    };
}

families! {
    BUILD: GAUGE "meridian_build_info" ["version"] ALL_ROLES ALWAYS,
        "Always 1; the label tells the version that runs.";
    UPTIME: GAUGE "meridian_uptime_seconds" [] ALL_ROLES ALWAYS,
        "Time since the process started.";
    MEMORY: GAUGE "meridian_resident_memory_bytes" [] ALL_ROLES ALWAYS,
        "Memory of the process that is in RAM (Linux only; 0 elsewhere).";
    CLOCK_BOUND: GAUGE "meridian_clock_bound_seconds" [] ALL_ROLES ALWAYS,
        "How far the node's clock may be off, as it says itself.";
    CLOCK_HEALTHY: GAUGE "meridian_clock_healthy" [] ALL_ROLES ALWAYS,
        "1 while that is within max_clock_error; with 0 the node takes no new transactions.";
    DISK: GAUGE "meridian_disk_bytes" [] ALL_ROLES KEEPS_FILES,
        "Size of the file system that the data directory is on.";
    DISK_FREE: GAUGE "meridian_disk_free_bytes" [] ALL_ROLES KEEPS_FILES,
        "How much of it is free for this process.";
    READY: GAUGE "meridian_service_ready" ["role"] ALL_ROLES ALWAYS,
        "1 while the service of this role can do its work.";

    RPC_CALLS: COUNTER "meridian_rpc_calls_total" ["method"] ALL_ROLES ALWAYS,
        "Calls and streams that began at this node.";
    RPC_OPEN: GAUGE "meridian_rpc_open" ["method"] ALL_ROLES ALWAYS,
        "Calls and streams under way.";
    RPC_ERRORS: COUNTER "meridian_rpc_errors_total" ["method", "reason"] ALL_ROLES ALWAYS,
        "Calls and streams that ended with an error, by the reason in its ErrorInfo; CANCELLED when the caller went \
         away, OTHER without a reason of ours.";
    RPC_SECONDS: LATENCY "meridian_rpc_seconds" ["method"] ALL_ROLES ALWAYS,
        "How long calls took until they were answered. Streams are not among them.";

    ROUTER_REQUESTS: COUNTER "meridian_router_requests_total" [] ROUTER ALWAYS,
        "Calls, but for sessions, that a query processor has answered.";
    ROUTER_SESSIONS: COUNTER "meridian_router_sessions_total" [] ROUTER ALWAYS,
        "Sessions that a query processor has opened.";
    ROUTER_REFUSED: COUNTER "meridian_router_refused_total" ["why"] ROUTER ALWAYS,
        "Calls and sessions refused at the front: too much was open, or the router was stopping.";
    ROUTER_BROKEN: COUNTER "meridian_router_answers_broken_total" [] ROUTER ALWAYS,
        "Answers that broke before their end, or never came.";
    ROUTER_OPEN_REQUESTS: GAUGE "meridian_router_open_requests" [] ROUTER ALWAYS,
        "Calls under way.";
    ROUTER_OPEN_SESSIONS: GAUGE "meridian_router_open_sessions" [] ROUTER ALWAYS,
        "Sessions that are open.";
    ROUTER_READY: GAUGE "meridian_router_query_processors_ready" [] ROUTER ALWAYS,
        "Query processors that take new sessions.";

    QUERY_BEGUN: COUNTER "meridian_query_transactions_begun_total" [] QUERY ALWAYS,
        "Transactions that began.";
    QUERY_OPEN: GAUGE "meridian_query_open_transactions" [] QUERY ALWAYS,
        "Transactions that are open.";
    QUERY_SESSIONS: COUNTER "meridian_query_sessions_total" [] QUERY ALWAYS,
        "Sessions that were opened.";
    QUERY_OPEN_SESSIONS: GAUGE "meridian_query_open_sessions" [] QUERY ALWAYS,
        "Sessions that are open.";
    QUERY_BUFFERED: GAUGE "meridian_query_buffered_bytes" [] QUERY ALWAYS,
        "What open transactions hold in memory.";
    QUERY_REFUSED: COUNTER "meridian_query_refused_total" [] QUERY ALWAYS,
        "Transactions and operations refused before any work, for too much was under way.";
    QUERY_COMMITS: COUNTER "meridian_query_commits_total" [] QUERY ALWAYS,
        "Transactions with writes that committed.";
    QUERY_TOLD_EARLY: COUNTER "meridian_query_commits_told_by_journal_total" [] QUERY ALWAYS,
        "Those of them that the region's journal node told before the owner did.";
    QUERY_ABORTS: COUNTER "meridian_query_aborts_total" ["reason"] QUERY ALWAYS,
        "Commits that did not end with a commit, by the reason that the client was told.";
    QUERY_RETRIES: COUNTER "meridian_query_commit_retries_total" ["why"] QUERY ALWAYS,
        "Commits that were tried once more: the owner had changed, the attempt was given up, a key was held by \
         another transaction, the owner was not ready, or was not reached.";
    QUERY_ATTEMPTS: LATENCY "meridian_query_commit_attempts_seconds" [] QUERY ALWAYS,
        "How long a commit took from when it was sent until it was known to be committed, or not.";
    QUERY_WAIT: LATENCY "meridian_query_commit_wait_seconds" [] QUERY ALWAYS,
        "How long it then waited until its timestamp was surely past (R3).";
    QUERY_OPERATION: LATENCY "meridian_query_operation_seconds" ["operation"] QUERY ALWAYS,
        "How long operations of sessions took, errors included. Calls without a session are in meridian_rpc_seconds.";
    QUERY_ERRORS: COUNTER "meridian_query_operation_errors_total" ["reason"] QUERY ALWAYS,
        "Operations of sessions that were answered with an error.";
    QUERY_BUSY: PASS "meridian_query_session_pass_seconds" [] QUERY ALWAYS,
        "Passes in which a session's task takes in what came and starts it; the sum is the time that it was busy.";

    ADJUDICATOR_ANSWERS: COUNTER "meridian_adjudicator_answers_total" ["answer"] ADJUDICATOR ALWAYS,
        "Commit requests that were answered, by answer: committed, voted (a part of a transaction across ranges), \
         unknown, or why it was refused.";
    ADJUDICATOR_BUSY: PASS "meridian_adjudicator_pass_seconds" [] ADJUDICATOR ALWAYS,
        "Passes of the decision loops of all ranges; the sum is the time that they were busy, so its rate per owned \
         range is how much of one core a range needs.";
    ADJUDICATOR_QUEUE: GAUGE "meridian_adjudicator_queued_requests" [] ADJUDICATOR ALWAYS,
        "Commit requests that wait to be decided.";
    ADJUDICATOR_LEASES: COUNTER "meridian_adjudicator_lease_records_total" [] ADJUDICATOR ALWAYS,
        "Lease renewals that were sent to the journal.";
    ADJUDICATOR_TAKEOVERS: COUNTER "meridian_adjudicator_takeovers_total" ["result"] ADJUDICATOR ALWAYS,
        "Attempts to become the owner of a stream that seemed to have none, by what came of them.";
    ADJUDICATOR_EPOCHS: COUNTER "meridian_adjudicator_epochs_total" ["start"] ADJUDICATOR ALWAYS,
        "Epochs that began here: anew from the log, handed over by the owner before, or resumed after fencing anew.";
    ADJUDICATOR_DEPOSED: COUNTER "meridian_adjudicator_deposed_total" [] ADJUDICATOR ALWAYS,
        "Times that an owner found another one in its place.";
    ADJUDICATOR_OWNED: GAUGE "meridian_adjudicator_owned_ranges" [] ADJUDICATOR ALWAYS,
        "Ranges that this node owns.";
    ADJUDICATOR_RECOVERING: GAUGE "meridian_adjudicator_recovering_ranges" [] ADJUDICATOR ALWAYS,
        "Ranges that it is taking over.";
    RANGE_EPOCH: GAUGE "meridian_range_epoch" ["range", "stream"] ADJUDICATOR OWNS,
        "The owner's epoch.";
    RANGE_LEASE: GAUGE "meridian_range_lease_remaining_seconds" ["range", "stream"] ADJUDICATOR OWNS,
        "How long its lease still lasts; negative when it ran out, as it does while nobody uses the range.";
    RANGE_LEAD: GAUGE "meridian_range_lead_seconds" ["range", "stream"] ADJUDICATOR OWNS,
        "How far ahead of the present it was last closed.";
    RANGE_CLOSED: GAUGE "meridian_range_closed_lag_seconds" ["range", "stream"] ADJUDICATOR OWNS,
        "How far behind the present it is closed; negative when ahead. It grows while nobody uses the range, which is \
         then closed on demand.";
    RANGE_LAST: GAUGE "meridian_range_last_lsn" ["range", "stream"] ADJUDICATOR OWNS,
        "The last record of its log.";
    RANGE_COMMITTED: GAUGE "meridian_range_committed_lsn" ["range", "stream"] ADJUDICATOR OWNS,
        "The last record that is committed.";
    RANGE_REPLICA_LAG: GAUGE "meridian_range_replica_lag_records" ["range", "stream", "journal"] ADJUDICATOR OWNS,
        "Records that this journal node has not acknowledged.";

    JOURNAL_SYNC: LATENCY "meridian_journal_sync_seconds" [] JOURNAL ALWAYS,
        "How long one write of a group of records with its sync to the disk took.";
    JOURNAL_GROUP: SIZE "meridian_journal_group_records" [] JOURNAL ALWAYS,
        "Records that went to the disk with one sync.";
    JOURNAL_BUSY: PASS "meridian_journal_writer_pass_seconds" [] JOURNAL ALWAYS,
        "Passes of the log's writer, from taking a group to its acknowledgement, sync included; the sum is the time \
         that it was busy.";
    JOURNAL_REFUSED: COUNTER "meridian_journal_refused_messages_total" [] JOURNAL ALWAYS,
        "Messages of owners that were refused because the disk was full.";
    JOURNAL_TRIMMED_SEGMENTS: COUNTER "meridian_journal_trimmed_segments_total" [] JOURNAL ALWAYS,
        "Segments of the log that were removed, because nobody needs them any more.";
    JOURNAL_TRIMMED_BYTES: COUNTER "meridian_journal_trimmed_bytes_total" [] JOURNAL ALWAYS,
        "What they took on the disk.";
    JOURNAL_LOG: GAUGE "meridian_journal_log_bytes" [] JOURNAL ALWAYS,
        "What the log takes on the disk, with the base file. It grows for ever while one storage node writes no checkpoints.";
    JOURNAL_WAITING: GAUGE "meridian_journal_waiting_messages" [] JOURNAL ALWAYS,
        "Messages whose records wait for their sync.";
    JOURNAL_CONNECTIONS: GAUGE "meridian_journal_append_connections" [] JOURNAL ALWAYS,
        "Owners that are connected.";
    JOURNAL_TAIL: GAUGE "meridian_journal_tail_bytes" [] JOURNAL ALWAYS,
        "Recent records that are kept in memory.";
    JOURNAL_EPOCH: GAUGE "meridian_journal_stream_promised_epoch" ["stream"] JOURNAL HAS_STREAM,
        "The epoch that was promised: no owner of an older one is listened to.";
    JOURNAL_LAST: GAUGE "meridian_journal_stream_last_lsn" ["stream"] JOURNAL HAS_STREAM,
        "The last record that it holds.";
    JOURNAL_COMMITTED: GAUGE "meridian_journal_stream_committed_lsn" ["stream"] JOURNAL HAS_STREAM,
        "The last record that it knows to be committed.";
    JOURNAL_BYTES: GAUGE "meridian_journal_stream_bytes" ["stream"] JOURNAL HAS_STREAM,
        "What its records take on the disk.";

    STORAGE_ENTRIES: COUNTER "meridian_storage_entries_applied_total" [] STORAGE ALWAYS,
        "Records of the journal that were applied.";
    STORAGE_VERSIONS: COUNTER "meridian_storage_versions_applied_total" [] STORAGE ALWAYS,
        "Versions of keys that they wrote.";
    STORAGE_DROPPED: COUNTER "meridian_storage_versions_dropped_total" [] STORAGE ALWAYS,
        "Old versions that retention dropped.";
    STORAGE_BUSY: PASS "meridian_storage_apply_pass_seconds" [] STORAGE ALWAYS,
        "Batches applied to the store; the sum is the time that the applier was busy.";
    STORAGE_READ_BUSY: PASS "meridian_storage_read_pass_seconds" [] STORAGE ALWAYS,
        "Passes in which reads are worked on; the sum is the time that this took.";
    STORAGE_READ_WAIT: LATENCY "meridian_storage_read_wait_seconds" [] STORAGE ALWAYS,
        "How long reads that had to wait for their range to be closed (R5) waited.";
    STORAGE_READS: COUNTER "meridian_storage_reads_total" [] STORAGE ALWAYS,
        "Reads that came in.";
    STORAGE_WAITED: COUNTER "meridian_storage_reads_waited_total" [] STORAGE ALWAYS,
        "Those of them that had to wait for their range to be closed.";
    STORAGE_REFUSED: COUNTER "meridian_storage_reads_refused_total" [] STORAGE ALWAYS,
        "Those that were refused because too many were open.";
    STORAGE_TIMED_OUT: COUNTER "meridian_storage_reads_timed_out_total" [] STORAGE ALWAYS,
        "Those whose deadline passed.";
    STORAGE_HITS: COUNTER "meridian_storage_newest_hits_total" [] STORAGE ALWAYS,
        "Keys whose newest version was looked up and was in memory (newest_cache_bytes).";
    STORAGE_MISSES: COUNTER "meridian_storage_newest_misses_total" [] STORAGE ALWAYS,
        "Keys for which the engine had to be asked, because nothing was known of them or the version was newer than the snapshot. \
         Both stay 0 without that memory.";
    STORAGE_OPEN: GAUGE "meridian_storage_open_reads" [] STORAGE ALWAYS,
        "Reads that are open.";
    STORAGE_OPEN_BYTES: GAUGE "meridian_storage_open_read_bytes" [] STORAGE ALWAYS,
        "What their requests take.";
    STORAGE_CLOSES: COUNTER "meridian_storage_closes_asked_total" [] STORAGE ALWAYS,
        "Times that an owner was asked to close its range.";
    STORAGE_FEEDS: COUNTER "meridian_storage_feeds_opened_total" [] STORAGE ALWAYS,
        "Times that a journal node's feed was opened.";
    STORAGE_BYTES: GAUGE "meridian_storage_store_bytes" [] STORAGE ALWAYS,
        "What the store takes on the disk.";
    STORAGE_CHECKPOINTS: COUNTER "meridian_storage_checkpoints_total" ["result"] STORAGE ALWAYS,
        "Checkpoints that were written, verified and are counted, and attempts that failed.";
    STORAGE_CHECKPOINT_AGE: GAUGE "meridian_storage_checkpoint_age_seconds" [] STORAGE ALWAYS,
        "How long ago the checkpoint that counts was begun; without one, the process was started. The journal keeps what came after the \
         oldest one.";
    STORAGE_CHECKPOINT_BYTES: GAUGE "meridian_storage_checkpoint_bytes" [] STORAGE ALWAYS,
        "Its size; 0 without one.";
    STORAGE_CHECKPOINT_SECONDS: GAUGE "meridian_storage_checkpoint_write_seconds" [] STORAGE ALWAYS,
        "How long the last one took to write and to verify.";
    STORAGE_FILLS: COUNTER "meridian_storage_fills_total" [] STORAGE ALWAYS,
        "Times that the store was filled from a checkpoint.";
    STORAGE_APPLIED: GAUGE "meridian_storage_applied_lsn" ["stream"] STORAGE FOLLOWS,
        "The last record of the stream that was applied; compare with meridian_journal_stream_committed_lsn.";
    STORAGE_CLOSED: GAUGE "meridian_storage_closed_lag_seconds" ["stream"] STORAGE FOLLOWS,
        "How far behind the present the stream's range is closed here; negative when ahead. It grows while nobody \
         uses the range.";
}
