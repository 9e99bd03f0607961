"""The store of what is kept about splits over restarts: a file, or a Redis that several gateways share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from passerelle.supervisor.split_record import Kept, Record, Tally
from passerelle.system.durable import sync

FORMAT: Final = "passerelle splits 1"
NAME: Final = "splits.json"
_MOST: Final = 4 << 20
"""Bytes of a file; a longer one is not a file of this program."""
_TALLY_SECONDS: Final = 10.0
"""Time between two saves of counts. A crash loses what was counted since."""


class StoreUnavailable(Exception):
    """The store cannot be read or written; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The state of a split in the store at ``now``, in seconds since 1970.

    ``tally`` is the sum over all gateways since the step began. ``leads`` is whether this gateway decides.
    """

    now: float
    record: Record | None
    tally: Tally
    leads: bool


class SplitStore(Protocol):
    """Where the records of splits are kept. All methods but :meth:`load` raise :class:`StoreUnavailable`."""

    @property
    def is_shared(self) -> bool:
        """Whether other gateways may change records."""

    async def load(self, names: Iterable[str]) -> dict[str, Kept]:
        """Return what was kept about the splits ``names``, at a start."""

    async def turn(self, name: str, epoch: int, tally: Tally, *, wants_lead: bool) -> Turn:
        """Publish what this gateway counted in ``epoch`` of a rollout, and return the state of the split."""

    async def write(self, name: str, record: Record, *, leading: bool) -> bool:
        """Write ``record`` over that with the revision before it.

        Returns False if the store has another one, or if ``leading`` and this gateway no longer leads.
        """

    async def restore(self, name: str, record: Record) -> None:
        """Write ``record`` unless the store has one of at least its revision: it may have lost its data."""

    async def close(self) -> None:
        """Give up the lead, save the last counts, and disconnect."""


class FileStore:
    """Keeps records in one file of ``folder``, which is replaced as a whole. This gateway always leads.

    ``clock`` is the time since 1970 in seconds. ``log`` receives one line when the file is damaged.
    """

    is_shared = False

    def __init__(self, folder: Path, log: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self.path = folder / NAME
        self._log = log
        self._clock = clock
        self._records: dict[str, Record] = {}
        self._before: dict[str, tuple[int, Tally]] = {}  # counts of earlier runs, with their epoch
        self._tallies: dict[str, tuple[int, Tally]] = {}
        self._saved_at = clock()
        self._unsaved = False

    async def load(self, names: Iterable[str]) -> dict[str, Kept]:
        """Read the file. A damaged one is set aside under another name."""
        names = list(names)
        try:
            found = await asyncio.to_thread(_read, self.path)
        except OSError as error:
            problem = f"cannot read {self.path}: {error.strerror}"
            self._log(problem)
            return {name: Kept(problem=problem) for name in names}
        except ValueError as error:
            problem = f"{self.path} is damaged ({error})"
            aside = self.path.with_suffix(".damaged")
            try:
                os.replace(self.path, aside)
                self._log(f"{problem}; it is now {aside}")
            except OSError:
                self._log(problem)
            return {name: Kept(problem=problem) for name in names}
        kept: dict[str, Kept] = {}
        for name in names:
            if name not in found:
                continue
            try:
                record = Record.from_json(found[name]["record"])
                epoch, tally = int(found[name]["epoch"]), Tally(*map(int, found[name]["tally"]))
            except (ValueError, KeyError, TypeError) as error:
                kept[name] = Kept(problem=f"{self.path}: the state of {name} is damaged ({error})")
                self._log(kept[name].problem)
                continue
            self._records[name] = record
            self._before[name] = self._tallies[name] = epoch, tally
            kept[name] = Kept(record, tally)
        return kept

    async def turn(self, name: str, epoch: int, tally: Tally, *, wants_lead: bool) -> Turn:
        """Add the counts of this run to those of earlier ones."""
        known, before = self._before.get(name, (epoch, Tally()))
        total = tally + before if known == epoch else tally
        if self._tallies.get(name) != (epoch, total):
            self._tallies[name] = epoch, total
            self._unsaved = True
        now = self._clock()
        if self._unsaved and now - self._saved_at >= _TALLY_SECONDS and name in self._records:
            with contextlib.suppress(StoreUnavailable):  # only counts: the next change reports it
                await self._save()
        return Turn(now, self._records.get(name), total, True)

    async def write(self, name: str, record: Record, *, leading: bool) -> bool:
        """Replace the file. If that fails, the record before remains."""
        if self._revision(name) != record.revision - 1:
            return False
        await self._put(name, record)
        return True

    async def restore(self, name: str, record: Record) -> None:
        """Replace the file if it has an earlier record or none."""
        if self._revision(name) < record.revision:
            await self._put(name, record)

    async def keep(self, name: str, record: Record) -> None:
        """Replace the file unless it has this record."""
        if self._records.get(name) != record:
            await self._put(name, record)

    def _revision(self, name: str) -> int:
        record = self._records.get(name)
        return record.revision if record is not None else 0

    async def _put(self, name: str, record: Record) -> None:
        before = self._records.get(name)
        self._records[name] = record
        try:
            await self._save()
        except StoreUnavailable:
            if before is None:
                del self._records[name]
            else:
                self._records[name] = before
            raise

    async def close(self) -> None:
        """Save the last counts."""
        if self._unsaved and self._records:
            with contextlib.suppress(StoreUnavailable):
                await self._save()

    async def _save(self) -> None:
        splits: dict[str, Any] = {}
        for name, record in self._records.items():
            epoch, tally = self._tallies.get(name, (0, Tally()))
            splits[name] = {"record": record.to_json(), "epoch": epoch, "tally": tally.numbers()}
        data = orjson.dumps({"format": FORMAT, "splits": splits}, option=orjson.OPT_INDENT_2)
        self._saved_at = self._clock()  # also if it fails: not with each turn
        try:
            await asyncio.to_thread(_replace, self.path, data + b"\n")
        except OSError as error:
            raise StoreUnavailable(f"cannot write {self.path}: {error.strerror}") from error
        self._unsaved = False


def _read(path: Path) -> dict[str, Any]:
    """Return the splits in a file; none if there is no file. :raises ValueError: if it is something else."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST + 1)
    except FileNotFoundError:
        return {}
    if len(data) > _MOST:
        raise ValueError(f"it has more than {_MOST} bytes")
    try:
        found = orjson.loads(data)
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("splits"), dict):
        raise ValueError(f"it does not have the format {FORMAT!r}")
    splits: dict[str, Any] = found["splits"]
    return splits


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a crash at any time leaves the one before or the new one."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_suffix(".new")
    with open(draft, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync(path.parent)
