"""The read model: every table and query, written by the projector, read by the api.

The one rule: no SQL stands anywhere else, but what ``selections`` puts together. ``tasks.number`` is the
sequence of a task's first event, so that order of submission is order of the primary key. Times are text as
the API shows them. ``events`` say how their task stood right after them.
"""

from typing import Final

SCHEMA_VERSION: Final = 4

TABLES: Final = """
CREATE TABLE checkpoint (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL,
    stream   TEXT NOT NULL,
    schema   INTEGER NOT NULL,
    ignored  INTEGER NOT NULL,
    pruned   INTEGER NOT NULL
) STRICT;
CREATE TABLE tasks (
    number       INTEGER PRIMARY KEY,
    task_id      TEXT NOT NULL,
    kind         TEXT NOT NULL,
    status       TEXT NOT NULL,
    tenant       TEXT NOT NULL,
    address      TEXT NOT NULL,
    fingerprint  TEXT NOT NULL,
    due_at       TEXT,
    sequence     INTEGER NOT NULL,
    model        TEXT NOT NULL,
    submitted_at TEXT,
    priority     TEXT NOT NULL,
    user         TEXT,
    units        REAL NOT NULL,
    origin       TEXT,
    batch        TEXT,
    backend      TEXT,
    error_code   TEXT,
    finished_at  TEXT,
    doc          BLOB NOT NULL,
    state        BLOB
) STRICT;
CREATE TABLE tags (
    tag    TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (tag, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    sequence   INTEGER PRIMARY KEY,
    number     INTEGER NOT NULL,
    type       TEXT NOT NULL,
    status     TEXT NOT NULL,
    backend    TEXT,
    error_code TEXT,
    wire       BLOB NOT NULL
) STRICT;
CREATE VIEW history AS
SELECT e.sequence, t.number, t.task_id, t.address, e.wire FROM events e JOIN tasks t ON t.number = e.number;
CREATE TABLE batches (
    batch_id     TEXT PRIMARY KEY,
    number       INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    tenant       TEXT NOT NULL,
    user         TEXT,
    size         INTEGER NOT NULL,
    submitted_at TEXT NOT NULL,
    finished_at  TEXT,
    scheduled    INTEGER NOT NULL,
    queued       INTEGER NOT NULL,
    running      INTEGER NOT NULL,
    retrying     INTEGER NOT NULL,
    done         INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    cancelled    INTEGER NOT NULL,
    expired      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE moments (
    sequence INTEGER PRIMARY KEY,
    queues   BLOB NOT NULL
) STRICT;
CREATE TABLE forgotten (
    number INTEGER PRIMARY KEY
) STRICT;
CREATE TABLE progress (
    task_id  TEXT PRIMARY KEY,
    revision INTEGER NOT NULL UNIQUE,
    attempt  INTEGER NOT NULL,
    wire     BLOB NOT NULL,
    doc      BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE counts (
    kind   TEXT NOT NULL,
    tenant TEXT NOT NULL,
    status TEXT NOT NULL,
    n      INTEGER NOT NULL,
    PRIMARY KEY (kind, tenant, status)
) STRICT, WITHOUT ROWID;
CREATE TABLE lane_depths (
    lane    TEXT PRIMARY KEY,
    n       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE queues (
    kind      TEXT NOT NULL,
    model     TEXT NOT NULL,
    scheduled INTEGER NOT NULL,
    queued    INTEGER NOT NULL,
    retrying  INTEGER NOT NULL,
    running   INTEGER NOT NULL,
    PRIMARY KEY (kind, model)
) STRICT, WITHOUT ROWID;
"""
INDEXES: Final = """
CREATE UNIQUE INDEX tasks_by_id ON tasks (task_id);
CREATE INDEX tasks_by_kind_and_priority ON tasks (kind, priority, number);
CREATE INDEX tasks_by_kind_and_status ON tasks (kind, status, number);
CREATE INDEX tasks_due ON tasks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_in_line ON tasks (kind, priority, number, status) WHERE status IN ('QUEUED', 'RETRYING');
CREATE INDEX tasks_in_queue ON tasks (kind, model, submitted_at) WHERE status IN ('QUEUED', 'RETRYING');
CREATE INDEX tasks_by_tenant ON tasks (tenant, number);
CREATE INDEX tasks_by_kind_and_model ON tasks (kind, model, number, units);
CREATE INDEX tasks_by_user ON tasks (user, number) WHERE user IS NOT NULL;
CREATE INDEX tasks_by_backend ON tasks (backend, number) WHERE backend IS NOT NULL;
CREATE INDEX tasks_by_error ON tasks (error_code, number) WHERE error_code IS NOT NULL;
CREATE INDEX tasks_by_origin ON tasks (origin) WHERE origin IS NOT NULL;
CREATE INDEX tasks_by_batch ON tasks (batch, number) WHERE batch IS NOT NULL;
CREATE INDEX tasks_by_submission ON tasks (submitted_at);
CREATE INDEX tasks_by_end ON tasks (finished_at, number) WHERE finished_at IS NOT NULL;
CREATE INDEX events_by_task ON events (number, sequence);
"""

GET_CHECKPOINT: Final = "SELECT sequence, stream, schema FROM checkpoint WHERE one = 1"
GET_STATE: Final = "SELECT number, address, state FROM tasks WHERE task_id = ?"
HISTORY_OF_TASK: Final = "SELECT wire FROM events WHERE number = ? ORDER BY sequence"

# The api's side, each read well under a millisecond. The row of tenant '*' counts every tenant's.
MOST_COUNTED: Final = 20
"""How far the tasks before one in its line are counted, at about a tenth of a microsecond each."""
STANDING: Final = f"""
       t.status, t.number, t.address, t.tenant, t.units, t.backend,
       CASE WHEN t.status IN ('SCHEDULED', 'RUNNING', 'RETRYING') THEN t.state END,
       CASE WHEN t.status IN ('QUEUED', 'RETRYING') THEN
           (SELECT count(*) FROM (
               SELECT 1 FROM tasks a
               WHERE a.kind = t.kind AND a.priority = t.priority AND a.status IN ('QUEUED', 'RETRYING')
                     AND a.number < t.number
               LIMIT {MOST_COUNTED}))
       END
"""  # noqa: S608 - a constant of this module
"""What a task's standing is worked out from; the last is how many are before it."""
GET_TASK: Final = f"""
SELECT t.sequence, t.doc, p.revision, p.doc, {STANDING}
FROM tasks t LEFT JOIN progress p ON p.task_id = t.task_id
WHERE t.task_id = ?
"""  # noqa: S608 - as above
AHEAD: Final = f"""
SELECT count(*) FROM (
    SELECT 1 FROM tasks WHERE kind = ? AND priority = ? AND status IN ('QUEUED', 'RETRYING') AND number < ?
    LIMIT {MOST_COUNTED})
"""  # noqa: S608 - as above
FIRST_IN_LINE: Final = """
SELECT number, task_id, address, tenant, units, CASE status WHEN 'RETRYING' THEN state END
FROM tasks WHERE kind = ? AND priority = ? AND status IN ('QUEUED', 'RETRYING') ORDER BY number LIMIT ?
"""
# SQLite skips those between two marks, in a quarter of the time of reading all, and no thread waits for it.
MARKS: Final = f"""
WITH RECURSIVE marks(number) AS (
    SELECT min(number) FROM tasks
    WHERE kind = ?1 AND priority = ?2 AND status IN ('QUEUED', 'RETRYING') AND number >= ?3
    UNION ALL
    SELECT (SELECT t.number FROM tasks t
            WHERE t.kind = ?1 AND t.priority = ?2 AND t.status IN ('QUEUED', 'RETRYING')
                  AND t.number > m.number
            ORDER BY t.number LIMIT 1 OFFSET {MOST_COUNTED - 1})
    FROM marks m WHERE m.number IS NOT NULL)
SELECT number FROM marks WHERE number IS NOT NULL
"""  # noqa: S608 - as above
"""The first number in a line from a given one on, and each that is MOST_COUNTED further on."""
BETWEEN: Final = """
SELECT count(*) FROM tasks
WHERE kind = ? AND priority = ? AND status IN ('QUEUED', 'RETRYING') AND number >= ? AND number < ?
"""
# The statuses of each kind, with the sequence that they are as of, even where there is none.
COUNTS: Final = """
SELECT sequence, kind, status, n
FROM checkpoint LEFT JOIN counts ON kind IN (SELECT value FROM json_each(?)) AND tenant = ?
"""
LANE_DEPTHS: Final = "SELECT lane, n FROM lane_depths WHERE n > 0"
TASK_STATUS: Final = "SELECT status, sequence FROM tasks WHERE task_id = ?"
GET_ADDRESS: Final = "SELECT address, fingerprint, status FROM tasks WHERE task_id = ?"
APPLIED_SEQUENCE: Final = "SELECT sequence FROM checkpoint WHERE one = 1"
ADMISSION: Final = """
SELECT (SELECT sequence FROM checkpoint WHERE one = 1),
       (SELECT coalesce(sum(n), 0) FROM counts
        WHERE kind = ?1 AND tenant = '*' AND status IN ('SCHEDULED', 'QUEUED', 'RETRYING')),
       (SELECT coalesce(sum(n), 0) FROM counts
        WHERE kind = ?1 AND tenant = ?2 AND status IN ('SCHEDULED', 'QUEUED', 'RETRYING')),
       coalesce((SELECT n FROM lane_depths WHERE lane = ?3), 0),
       coalesce((SELECT n FROM lane_depths WHERE lane = ?4), 0)
"""
# The inner WHERE says the status in the very words of tasks_in_queue, which SQLite uses only then.
QUEUES: Final = """
SELECT kind, model, scheduled, queued, retrying, running,
       (SELECT min(t.submitted_at) FROM tasks t
        WHERE t.kind = q.kind AND t.model = q.model AND t.status IN ('QUEUED', 'RETRYING')),
       (SELECT avg(units) FROM (
           SELECT units FROM tasks WHERE kind = q.kind AND model = q.model ORDER BY number DESC LIMIT 200))
FROM queues q
"""
OVERDUE: Final = """
SELECT task_id, address FROM tasks WHERE due_at IS NOT NULL AND due_at <= ? ORDER BY due_at LIMIT ?
"""
EVENT: Final = """
       e.sequence, t.task_id, e.type, e.wire, e.status, e.backend, e.error_code, t.number,
       t.kind, t.model, t.priority, t.tenant, t.user, t.batch, t.submitted_at, t.finished_at
"""
"""An event, and what a filter may ask of its task, as the events' readers take it apart."""
EVENTS_BETWEEN: Final = f"""
SELECT {EVENT} FROM events e CROSS JOIN tasks t ON t.number = e.number
WHERE e.sequence > ? AND e.sequence <= ? ORDER BY e.sequence LIMIT ?
"""  # noqa: S608 - a constant of this module
EVENTS_OF_TASK: Final = f"""
SELECT {EVENT} FROM tasks t CROSS JOIN events e ON e.number = t.number
WHERE t.task_id = ? AND e.sequence > ? AND e.sequence <= ? ORDER BY e.sequence LIMIT ?
"""  # noqa: S608 - as above
# All that a filter asks of columns alone, so that few rows are left to be held against the whole of it. The
# first row is none: it says how far was looked, and how far the file is.
EVENTS_LOOKED_AT: Final = f"""
WITH bound(upto, written) AS MATERIALIZED (
    SELECT min(sequence, ?2, coalesce((
               SELECT sequence FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT 1 OFFSET ?3), ?2)),
           sequence
    FROM checkpoint)
SELECT upto, written, {", ".join(["NULL"] * 14)} FROM bound
UNION ALL
SELECT * FROM (
    SELECT {EVENT} FROM events e CROSS JOIN tasks t ON t.number = e.number
    WHERE e.sequence > ?1 AND e.sequence <= (SELECT upto FROM bound)
          AND (?5 IS NULL OR t.kind = ?5)
          AND (?6 IS NULL OR t.model = ?6)
          AND (?7 IS NULL OR t.tenant = ?7)
          AND (?8 IS NULL OR t.user = ?8)
          AND (?9 IS NULL OR t.batch = ?9)
          AND (?10 IS NULL OR e.backend = ?10)
          AND (?11 IS NULL OR e.error_code = ?11)
          AND (?12 IS NULL OR e.type IN (SELECT value FROM json_each(?12)))
          AND (?13 IS NULL OR e.status IN (SELECT value FROM json_each(?13)))
          AND (?14 IS NULL OR EXISTS (SELECT 1 FROM tags g WHERE g.tag = ?14 AND g.number = t.number))
    ORDER BY e.sequence LIMIT ?4)
"""  # noqa: S608 - as above
PRUNED: Final = "SELECT pruned FROM checkpoint WHERE one = 1"
GET_BATCH: Final = """
SELECT batch_id, sequence, tenant, user, size, submitted_at, finished_at,
       scheduled, queued, running, retrying, done, failed, cancelled, expired
FROM batches WHERE batch_id = ?
"""
BATCH_REACH: Final = "SELECT number, sequence, finished_at FROM batches WHERE batch_id = ?"
"""Where a batch's events begin, where they end so far, and whether its tasks have all ended."""
BATCH_LACKS: Final = """
SELECT size > (SELECT count(*) FROM tasks t WHERE t.batch = b.batch_id) FROM batches b WHERE batch_id = ?
"""
FIRST_EVENT: Final = """
SELECT wire FROM events WHERE number = (SELECT number FROM tasks WHERE task_id = ?)
ORDER BY sequence LIMIT 1
"""
LAST_EVENT: Final = "SELECT sequence, wire FROM events WHERE sequence <= ? ORDER BY sequence DESC LIMIT 1"
EVENT_FROM: Final = "SELECT sequence, wire FROM events WHERE sequence >= ? ORDER BY sequence LIMIT 1"
WIRES_OF_TASK: Final = """
SELECT wire FROM events
WHERE number = (SELECT number FROM tasks WHERE task_id = ?) AND sequence <= ? ORDER BY sequence
"""
LAST_MOMENT: Final = (
    "SELECT sequence, queues FROM moments WHERE sequence <= ? ORDER BY sequence DESC LIMIT 1"
)
MOVES: Final = """
SELECT t.kind, t.model, (
           SELECT p.status FROM events p
           WHERE p.number = e.number AND p.sequence < e.sequence ORDER BY p.sequence DESC LIMIT 1
       ), e.status
FROM events e CROSS JOIN tasks t ON t.number = e.number
WHERE e.sequence > ? AND e.sequence <= ?
"""
"""From what to what each event changed its task, and which queue that is in."""
# The statuses in the words of tasks_by_kind_and_status; only they are looked into.
NEEDS_RECORDING: Final = """
SELECT 1 FROM tasks
WHERE kind = 'speech' AND status IN ('SCHEDULED', 'QUEUED', 'RETRYING', 'RUNNING')
      AND json_extract(CAST(doc AS TEXT), '$.request.artifact') = ?
LIMIT 1
"""
GET_DOC: Final = "SELECT doc FROM tasks WHERE number = ?"
# As an event that left its task running, but for its first column.
PROGRESS_AFTER: Final = """
SELECT p.revision, t.task_id, 'task.progress', p.wire, 'RUNNING', t.backend, NULL, t.number,
       t.kind, t.model, t.priority, t.tenant, t.user, t.batch, t.submitted_at, NULL
FROM progress p CROSS JOIN tasks t ON t.task_id = p.task_id
WHERE p.revision > ? ORDER BY p.revision LIMIT ?
"""
PROGRESS_OF_TASK: Final = "SELECT revision, wire FROM progress WHERE task_id = ?"
LAST_PROGRESS: Final = "SELECT coalesce(max(revision), 0) FROM progress"
