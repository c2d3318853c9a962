"""One digest over all that a read model says, to tell whether two of them say the same.

The one rule: it is of the rows in the order of their keys, not of the bytes of a file; and of facts alone,
not of what is on its way (progress, what the text index has to forget) or depends on how a file was made.
"""

import hashlib
import sqlite3
from typing import Final

import msgspec

from schemas import upkeep

_ROWS: Final = 500
_encode: Final = msgspec.msgpack.Encoder().encode


def checksum(database: sqlite3.Connection) -> str:
    """Give the digest in hex digits; of one moment, if the connection stands in a transaction."""
    digest = hashlib.sha256()
    for name, rows in upkeep.FACTS.items():
        digest.update(_encode(name))
        cursor = database.execute(rows)
        while some := cursor.fetchmany(_ROWS):
            for row in some:
                digest.update(_encode(row))
    return digest.hexdigest()
