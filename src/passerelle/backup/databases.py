"""What a backup needs of a database, whatever its engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from passerelle.backup.manifest import Part


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored database: where it is, where the former content was kept (empty if there was none), and a note."""

    place: str
    kept: str = ""
    note: str = ""


class Database(Protocol):
    """A database that can be backed up. All methods raise ``BackupError``."""

    name: str

    @property
    def engine(self) -> Literal["sqlite", "postgresql", "redis"]:
        """Its engine: only dumps of the same one can be restored."""

    @property
    def place(self) -> str:
        """Where it is, without passwords."""

    def dump(self, folder: Path) -> Part:
        """Write a dump of one consistent moment to ``folder``."""

    def verify(self, part: Part, folder: Path) -> None:
        """Restore the dump in ``folder`` to a scratch database, and compare that with ``part``."""

    def exists(self) -> bool:
        """Return whether there is a database that restoring would replace."""

    def restore_beside(self, part: Part, folder: Path, stamp: str) -> Restored:
        """Restore the dump to a new database beside this one, compare it with ``part``, and leave it there."""

    def replace(self, beside: Restored, stamp: str) -> Restored:
        """Put a database that was restored beside in the place of this one, whose content is kept."""
