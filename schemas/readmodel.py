"""The read model: every table and query, written by the projector, read by the api.

The one rule: no SQL stands anywhere else, but what ``selections`` puts together. ``tasks.number`` is the
sequence of a task's first event, so that order of submission is order of the primary key. Times are text as
the API shows them.
"""

from typing import Final

SCHEMA_VERSION: Final = 3

TABLES: Final = """
CREATE TABLE checkpoint (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL,
    stream   TEXT NOT NULL,
    schema   INTEGER NOT NULL,
    ignored  INTEGER NOT NULL
) STRICT;
CREATE TABLE tasks (
    number       INTEGER PRIMARY KEY,
    task_id      TEXT NOT NULL UNIQUE,
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
    backend      TEXT,
    error_code   TEXT,
    finished_at  TEXT,
    doc          BLOB NOT NULL,
    state        BLOB NOT NULL
) STRICT;
CREATE INDEX tasks_by_status ON tasks (status, number);
CREATE INDEX tasks_by_kind ON tasks (kind, number);
CREATE INDEX tasks_by_kind_and_status ON tasks (kind, status, number);
CREATE INDEX tasks_due ON tasks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_in_line ON tasks (kind, priority, number, status) WHERE status IN ('QUEUED', 'RETRYING');
CREATE INDEX tasks_in_queue ON tasks (kind, model, submitted_at) WHERE status IN ('QUEUED', 'RETRYING');
CREATE INDEX tasks_by_tenant ON tasks (tenant, number);
CREATE INDEX tasks_by_model ON tasks (model, number);
CREATE INDEX tasks_by_user ON tasks (user, number) WHERE user IS NOT NULL;
CREATE INDEX tasks_by_backend ON tasks (backend, number) WHERE backend IS NOT NULL;
CREATE INDEX tasks_by_error ON tasks (error_code, number) WHERE error_code IS NOT NULL;
CREATE INDEX tasks_by_origin ON tasks (origin) WHERE origin IS NOT NULL;
CREATE INDEX tasks_by_submission ON tasks (submitted_at);
CREATE INDEX tasks_by_end ON tasks (finished_at, number) WHERE finished_at IS NOT NULL;
CREATE TABLE tags (
    tag    TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (tag, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    task_id  TEXT NOT NULL,
    type     TEXT NOT NULL,
    wire     BLOB NOT NULL
) STRICT;
CREATE INDEX events_by_task ON events (task_id, sequence);
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

# The projector's side.
INIT_CHECKPOINT: Final = "INSERT INTO checkpoint VALUES (1, ?, ?, ?, 0)"
GET_CHECKPOINT: Final = "SELECT sequence, stream, schema FROM checkpoint WHERE one = 1"
SET_CHECKPOINT: Final = (
    "UPDATE checkpoint SET sequence = ?, ignored = ignored + ? WHERE one = 1 AND sequence < ?"
)
GET_STATE: Final = "SELECT number, address, state FROM tasks WHERE task_id = ?"
# `sequence` makes the write safe twice: an event that was applied already changes nothing.
UPSERT_TASK: Final = """
INSERT INTO tasks
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET
    status = excluded.status,
    tenant = excluded.tenant,
    fingerprint = excluded.fingerprint,
    due_at = excluded.due_at,
    sequence = excluded.sequence,
    backend = excluded.backend,
    error_code = excluded.error_code,
    finished_at = excluded.finished_at,
    doc = excluded.doc,
    state = excluded.state
WHERE excluded.sequence > tasks.sequence
"""
INSERT_TAG: Final = "INSERT OR IGNORE INTO tags VALUES (?, ?)"
INSERT_EVENT: Final = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)"
ADD_COUNT: Final = """
INSERT INTO counts VALUES (?, ?, ?, ?)
ON CONFLICT (kind, tenant, status) DO UPDATE SET n = n + excluded.n
"""
ADD_LANE_DEPTH: Final = """
INSERT INTO lane_depths VALUES (?, ?)
ON CONFLICT (lane) DO UPDATE SET n = n + excluded.n
"""
ADD_QUEUE: Final = """
INSERT INTO queues VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (kind, model) DO UPDATE SET
    scheduled = scheduled + excluded.scheduled,
    queued = queued + excluded.queued,
    retrying = retrying + excluded.retrying,
    running = running + excluded.running
"""
# Progress that arrives after the end, or of an earlier attempt, touches nothing.
UPSERT_PROGRESS: Final = """
INSERT INTO progress
SELECT ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM tasks WHERE task_id = ?1 AND status = 'RUNNING')
ON CONFLICT (task_id) DO UPDATE SET
    revision = excluded.revision,
    attempt = excluded.attempt,
    wire = excluded.wire,
    doc = excluded.doc
WHERE excluded.revision > progress.revision AND excluded.attempt >= progress.attempt
"""
DELETE_PROGRESS: Final = "DELETE FROM progress WHERE task_id = ?"

# The api's side, each read well under a millisecond. The row of tenant '*' counts every tenant's.
MOST_COUNTED: Final = 201
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
IN_LINE: Final = """
SELECT number FROM tasks
WHERE kind = ? AND priority = ? AND status IN ('QUEUED', 'RETRYING') ORDER BY number
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
       (SELECT avg(units) FILTER (WHERE kind = q.kind) FROM (
           SELECT kind, units FROM tasks WHERE model = q.model ORDER BY number DESC LIMIT 200))
FROM queues q
"""
OVERDUE: Final = """
SELECT task_id, address FROM tasks WHERE due_at IS NOT NULL AND due_at <= ? ORDER BY due_at LIMIT ?
"""
EVENTS_AFTER: Final = """
SELECT sequence, task_id, type, wire FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?
"""
EVENTS_BETWEEN: Final = """
SELECT sequence, task_id, type, wire FROM events
WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?
"""
EVENTS_OF_TASK: Final = """
SELECT sequence, task_id, type, wire FROM events
WHERE task_id = ? AND sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?
"""
PROGRESS_AFTER: Final = """
SELECT revision, task_id, wire FROM progress WHERE revision > ? ORDER BY revision LIMIT ?
"""
PROGRESS_OF_TASK: Final = "SELECT revision, wire FROM progress WHERE task_id = ?"
LAST_PROGRESS: Final = "SELECT coalesce(max(revision), 0) FROM progress"
