"""What looks after the read model: the SQL by which finished tasks leave it, and of its checksum.

The one rule: as in ``readmodel``, of which this is a part; what drops is of one task or batch, by its key.
"""

from typing import Final

# What was erased after its end has an event as young as that, so it is as old as its erasure.
FINISHED_BEFORE: Final = """
SELECT number, kind, tenant, status, batch, sequence FROM tasks
WHERE finished_at < ?1 AND coalesce(json_extract(CAST(doc AS TEXT), '$.erased_at') < ?1, 1)
ORDER BY finished_at LIMIT ?2
"""
DROP_TAGS: Final = """
DELETE FROM tags WHERE number = ?1 AND tag IN (
    SELECT value FROM json_each((SELECT CAST(doc AS TEXT) FROM tasks WHERE number = ?1), '$.tags'))
"""
DROP_EVENTS: Final = "DELETE FROM events WHERE number = ?"
DROP_TASK: Final = "DELETE FROM tasks WHERE number = ?"
DROP_BATCH: Final = """
DELETE FROM batches
WHERE batch_id = ?1 AND finished_at < ?2 AND NOT EXISTS (SELECT 1 FROM tasks WHERE batch = ?1)
"""
DROP_MOMENTS: Final = "DELETE FROM moments WHERE sequence < ?"
FACTS: Final = {
    "tasks": "SELECT * FROM tasks ORDER BY number",
    "tags": "SELECT * FROM tags ORDER BY tag, number",
    "events": "SELECT * FROM events ORDER BY sequence",
    "batches": "SELECT * FROM batches ORDER BY batch_id",
    "counts": "SELECT * FROM counts WHERE n <> 0 ORDER BY kind, tenant, status",
    "lane_depths": "SELECT * FROM lane_depths WHERE n <> 0 ORDER BY lane",
    "queues": """
SELECT * FROM queues WHERE scheduled <> 0 OR queued <> 0 OR retrying <> 0 OR running <> 0
ORDER BY kind, model
""",
}
"""By table, the rows of which every read model of the same log has the same. A count of 0 is no row."""
