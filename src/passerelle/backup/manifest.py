"""The manifest of a backup: what it contains, and what a restored database must equal."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from passerelle.backup.errors import BackupError

FORMAT = 1
"""The version of archives and manifests. A program reads its own and older ones."""

_FILE = r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\.(db|dump)$"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Table(_Record):
    """The content of a table: the number of rows, for PostgreSQL a sum over the SHA-256 of each row, for Redis that of
    all entries."""

    rows: int
    digest: str = ""


class Part(_Record):
    """One database: its dump ``file`` in the archive, and its content at the moment of the backup.

    ``version`` is that of the engine; ``layout`` is the SHA-256 of a description of tables, columns, indexes and so on.
    ``settings`` are those that a new database must be created with.
    """

    name: str
    engine: Literal["sqlite", "postgresql", "redis"]
    version: str
    file: Annotated[str, Field(pattern=_FILE)]
    size: Annotated[int, Field(ge=0)]
    sha256: str
    layout: str
    tables: dict[str, Table]
    settings: dict[str, str] = {}

    @property
    def rows(self) -> int:
        """The number of rows of all tables."""
        return sum(table.rows for table in self.tables.values())


class Manifest(_Record):
    """The content of an archive."""

    format: Literal[1] = 1
    program: str
    time: AwareDatetime
    parts: tuple[Part, ...]

    def to_json(self) -> bytes:
        """Serialize it."""
        return self.model_dump_json(indent=1).encode()


def parse_manifest(data: bytes, name: str) -> Manifest:
    """Read a manifest. ``name`` is that of the archive, for errors.

    :raises BackupError: if it is of a newer format, or not valid.
    """
    try:
        found = json.loads(data)
        version = found["format"]
        program = str(found.get("program", "another version of passerelle"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BackupError(f"{name} is damaged: its manifest cannot be read") from None
    if version != FORMAT:
        raise BackupError(
            f"{name} has the format {version!r}, which this version cannot read (it reads {FORMAT}); "
            f"it was made by {program}"
        )
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise BackupError(f"{name} is damaged: its manifest has no valid {where}") from None
    files = [part.file for part in manifest.parts]
    if not files or len(set(files)) < len(files):
        raise BackupError(f"{name} is damaged: its manifest lists {'a file twice' if files else 'no files'}")
    return manifest


def differences(expected: Part, layout: str, tables: dict[str, Table]) -> list[str]:
    """Compare a restored database with the manifest. Returns what differs, one text each."""
    found: list[str] = []
    for table, content in expected.tables.items():
        restored = tables.get(table)
        if restored is None:
            found.append(f"the table {table} is missing")
        elif restored.rows != content.rows:
            found.append(f"the table {table} has {restored.rows} rows instead of {content.rows}")
        elif restored.digest != content.digest:
            found.append(f"the rows of the table {table} have another content")
    found += [f"the table {table} is not in the manifest" for table in tables if table not in expected.tables]
    if not found and layout != expected.layout:
        found.append("columns, indexes, constraints or other parts of the schema differ")
    return found


def stamp(time: datetime, *, milliseconds: bool = False) -> str:
    """Format a time (UTC) for the names of files and databases: ``20261130T160102Z``."""
    fraction = f"{time.microsecond // 1000:03}" if milliseconds else ""
    return f"{time:%Y%m%dT%H%M%S}{fraction}Z"
