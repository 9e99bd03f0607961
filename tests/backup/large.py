"""``python -m tests.backup.large``: back up and restore 100 MB under writes, and write the figures into the page.

It is no test because it takes a minute; what it checks, tests check with less data.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from passerelle.backup.run import make_backup, restore_backup
from passerelle.backup.storage import FolderStorage
from tests.backup.conftest import Ledger, postgresql_ledger, sqlite_ledger
from tests.support.postgresql import PostgresServer

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/back-up.md"
HEAD = ("database", "size", "backup", "archive", "writes/s", "slowest write", "restore")
ROWS = 100_000
FILL = {
    "SQLite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    " INSERT INTO ballast SELECT i, hex(randomblob(500)) FROM n",
    "PostgreSQL": "INSERT INTO ballast SELECT i, (SELECT string_agg(md5(random()::text || i || j), '')"
    " FROM generate_series(1, 31) AS j) FROM generate_series(1, {rows}) AS i",
}
SIZE = {
    "SQLite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    "PostgreSQL": "SELECT pg_database_size(current_database())",
}


def measured(engine: str, ledger: Ledger, folder: Path) -> tuple[str, ...]:
    """Make a backup of 100 MB under writes, restore it, and return the figures."""
    storage = FolderStorage(folder / f"{engine}.backups")
    ledger.execute(
        "CREATE TABLE ballast (n INTEGER PRIMARY KEY, text VARCHAR NOT NULL)", FILL[engine].format(rows=ROWS)
    )
    ledger.fill(1000)
    with closing(ledger.connect()) as db:
        (size,) = db.execute(SIZE[engine]).fetchone()
    with ledger.written() as writes:
        before, begun = ledger.number(), time.monotonic()
        made = make_backup([ledger.database], storage, "large", datetime.now(UTC), "test")
        backup, after = time.monotonic() - begun, ledger.number()
    (part,) = made.manifest.parts
    rows = part.rows - 1 - ROWS
    assert before <= rows <= after < ledger.number() + 1, (before, rows, after)
    begun = time.monotonic()
    restore_backup([ledger.database], storage, made.name, None, datetime.now(UTC), replace=True, beside=False)
    restore = time.monotonic() - begun
    # The content is that of one moment during the backup.
    assert ledger.number() == rows
    return (
        f"{engine} {part.version.split()[0]}",
        f"{size / 1e6:.0f} MB",
        f"{backup:.1f} s",
        f"{made.size / 1e6:.0f} MB",
        f"{writes.done / writes.seconds:.0f}",
        f"{writes.slowest * 1000:.0f} ms",
        f"{restore:.1f} s",
    )


def main() -> None:
    """Measure both engines and write the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [measured("SQLite", sqlite_ledger(folder / "ledger.db"), folder)]
        server = PostgresServer("max_connections=40")
        try:
            found.append(measured("PostgreSQL", postgresql_ledger(server), folder))
        finally:
            server.close()
    lines = [HEAD, ("---",) * len(HEAD), *found]
    table = "".join(f"| {' | '.join(line)} |\n".replace("| --- ", "|---").replace("--- |", "---|") for line in lines)
    text = PAGE.read_text(encoding="utf-8")
    head = re.escape(f"| {' | '.join(HEAD)} |\n")
    changed, number = re.subn(rf"{head}(?:\|.*\n)+", lambda _: table, text)
    assert number == 1, f"{PAGE} has no such table"
    PAGE.write_text(changed, encoding="utf-8")
    load = os.getloadavg()[0]
    print(table, f"Python {platform.python_version()}, {os.cpu_count()} processors, load {load:.1f}", sep="")


if __name__ == "__main__":
    main()
