"""What the projector writes into the read model, and what it looks up for that.

The one rule: as in ``readmodel``, of which this is a part; every write is safe twice.
"""

from typing import Final

INIT_CHECKPOINT: Final = "INSERT INTO checkpoint VALUES (1, ?, ?, ?, 0, 0)"
SET_CHECKPOINT: Final = (
    "UPDATE checkpoint SET sequence = ?, ignored = ignored + ? WHERE one = 1 AND sequence < ?"
)
# Of a file of any version from the fourth on.
OLDER_CHECKPOINT: Final = "SELECT stream, pruned FROM checkpoint WHERE one = 1"
OLDER_EVENTS: Final = """
SELECT address, wire FROM history WHERE number < ? AND sequence < ? ORDER BY sequence
"""
OLDER_BATCHES: Final = "SELECT * FROM batches WHERE number < ? AND finished_at IS NOT NULL"
REPLACE_BATCH: Final = (
    "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
SET_PRUNED: Final = "UPDATE checkpoint SET pruned = max(pruned, ?) WHERE one = 1"
# `sequence` makes the write safe twice: an event that was applied already changes nothing.
UPSERT_TASK: Final = """
INSERT INTO tasks
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (number) DO UPDATE SET
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
INSERT_EVENT: Final = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?)"
DELETE_EVENTS: Final = "DELETE FROM events WHERE number = ? AND sequence < ?"
INSERT_MOMENT: Final = "INSERT OR IGNORE INTO moments VALUES (?, ?)"
FORGET: Final = "INSERT OR IGNORE INTO forgotten VALUES (?)"
GET_QUEUES: Final = "SELECT * FROM queues"
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
ADD_BATCH: Final = """
INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (batch_id) DO UPDATE SET
    number = min(number, excluded.number),
    sequence = max(sequence, excluded.sequence),
    submitted_at = min(submitted_at, excluded.submitted_at),
    scheduled = scheduled + excluded.scheduled,
    queued = queued + excluded.queued,
    running = running + excluded.running,
    retrying = retrying + excluded.retrying,
    done = done + excluded.done,
    failed = failed + excluded.failed,
    cancelled = cancelled + excluded.cancelled,
    expired = expired + excluded.expired
"""
END_BATCH: Final = """
UPDATE batches SET finished_at = (SELECT max(finished_at) FROM tasks WHERE batch = ?1)
WHERE batch_id = ?1 AND finished_at IS NULL AND done + failed + cancelled + expired = size
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
PROMPTS_AFTER: Final = "SELECT number, doc FROM tasks WHERE number > ? ORDER BY number LIMIT ?"
FORGOTTEN_AFTER: Final = "SELECT number FROM forgotten WHERE number > ? ORDER BY number LIMIT ?"
DROP_FORGOTTEN: Final = "DELETE FROM forgotten WHERE number = ?"
