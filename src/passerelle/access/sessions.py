"""The sessions that a worker accepts and opens, in an SQLite file or in Redis.

A file is checked for changes; all writes to it run in one thread.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from passerelle.errors import Failure, Kind
from passerelle.observability.events import STORE
from passerelle.security.credentials.session_store import (
    Grant,
    Lifetimes,
    Session,
    SessionStore,
    digest_of,
    link_of,
    new_id,
)
from passerelle.security.credentials.sessions import FileSessionMethod, OriginCheck, SessionCookies, SessionMethod

__all__ = ["Claimed", "Done", "FileSessionProvider", "SessionProvider", "SessionSettings", "digest_of_valid", "link_of"]

# How often the file is checked for changes (seconds): the longest time until a session that another worker has ended is
# refused.
REFRESH = 0.5
# The longest time between writes of last uses (seconds); it is shorter where sessions have a short idle time.
WRITE = 5.0

# Called at the end of a write: with None, or with the reason why it failed.
Done = Callable[[Failure | None], None]
# Called with the grant of a session, None without one, or the reason why it cannot be read.
Claimed = Callable[[Grant | Failure | None], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The rules of sessions. ``cookie`` is the name without its prefix; lifetimes are in seconds.

    ``insecure`` cookies have neither ``Secure`` nor ``__Host-``. With ``token``, unsafe requests need the CSRF token
    of their session. ``origins`` lists those whose pages may use sessions, apart from the gateway's own.
    """

    cookie: str
    idle: float
    absolute: float
    token: bool
    origins: tuple[str, ...]
    insecure: bool


class SessionProvider:
    """The source of sessions under the rules of ``settings``."""

    method: SessionMethod

    def __init__(self, settings: SessionSettings) -> None:
        self.settings = settings
        self.cookies = SessionCookies.named(settings.cookie, secure=not settings.insecure)
        self.origin = OriginCheck(settings.origins, token=settings.token, secure=not settings.insecure)
        self.lifetimes = Lifetimes(settings.idle, settings.absolute)

    def start(self) -> None:
        """Start background work."""

    def stop(self) -> None:
        """Stop background work."""

    def check(self) -> None:
        """Check that a session can be opened now.

        :raises Failure: if it cannot.
        """

    def open(
        self, user: str, roles: tuple[str, ...], old: bytes | None, done: Done, links: tuple[bytes, ...] = ()
    ) -> bytes:
        """Open a session in place of that with the id ``old``; return its id, valid when ``done`` is called.

        ``links`` are what :meth:`end_linked` finds it by.
        """
        raise NotImplementedError

    def revoke(self, identity: bytes, done: Done) -> None:
        """End a session; ``done`` is called when that is written."""
        raise NotImplementedError

    def end_linked(self, link: bytes, done: Done) -> None:
        """End all sessions with ``link``; ``done`` is called when that is written."""
        raise NotImplementedError

    def keep_grant(self, identity: bytes, grant: Grant, done: Done) -> None:
        """Keep what a session has of its provider; ``done`` is called when that is written."""
        raise NotImplementedError

    def claim_grant(self, identity: bytes, now: float, until: float, done: Claimed) -> None:
        """Pass the grant of a session to ``done``, or None without one; if it is due, no other worker gets it so until
        then.
        """
        raise NotImplementedError

    def renew(self, identity: bytes, roles: tuple[str, ...], grant: Grant, done: Done) -> None:
        """Replace roles and grant of a session; ``done`` is called when that is written."""
        raise NotImplementedError

    def _forget_around(self, digest: bytes | None, done: Done) -> Done:
        """Forget the session now, and again after the write: it may be looked up once more in between."""

        def on_done(failure: Failure | None) -> None:
            if digest is not None:
                self.method.forget(digest)
            done(failure)

        if digest is not None:
            self.method.forget(digest)
        return on_done


class FileSessionProvider(SessionProvider):
    """Sessions in the file ``path``.

    :raises sqlite3.Error: if the file cannot be used.
    """

    method: FileSessionMethod

    def __init__(self, settings: SessionSettings, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(settings)
        self._loop = loop
        self._store = SessionStore(path)
        self.method = FileSessionMethod(self._store, self.cookies, self.lifetimes, self.origin)
        # One thread keeps the writes in order; a write may wait for the disk, or for another writer.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sessions")
        self._writes = _SessionWriter(path)
        self.path = path
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Start to check the file and to write last uses."""
        self._refresh()
        self._schedule_write()

    def stop(self) -> None:
        """Write the pending last uses, and close the file."""
        for timer in self._timers.values():
            timer.cancel()
        self._write_pending_uses()
        self._writer.submit(self._writes.close)
        self._writer.shutdown(wait=True)
        self._store.close()

    def open(
        self, user: str, roles: tuple[str, ...], old: bytes | None, done: Done, links: tuple[bytes, ...] = ()
    ) -> bytes:
        """Open a session in place of that with the id ``old``; return its id, valid when ``done`` is called.

        ``links`` are what :meth:`end_linked` finds it by.
        """
        identity = new_id()
        now = time.time()
        session = Session(user, roles, now, now)
        ended = None if old is None else digest_of_valid(old)
        self._write(
            lambda store: store.replace(ended, digest_of_valid(identity), session, links),
            self._forget_around(ended, done),
        )
        return identity

    def revoke(self, identity: bytes, done: Done) -> None:
        """End a session; ``done`` is called when that is written."""
        digest = digest_of_valid(identity)
        self._write(lambda store: store.revoke(digest), self._forget_around(digest, done))

    def end_linked(self, link: bytes, done: Done) -> None:
        """End all sessions with ``link``; ``done`` is called when that is written."""

        def ended(failure: Failure | None) -> None:
            self.method.refresh()
            done(failure)

        self._write(lambda store: store.revoke_linked(link), ended)

    def keep_grant(self, identity: bytes, grant: Grant, done: Done) -> None:
        """Keep what a session has of its provider; ``done`` is called when that is written."""
        digest = digest_of_valid(identity)
        self._write(lambda store: store.keep_grant(digest, grant), done)

    def claim_grant(self, identity: bytes, now: float, until: float, done: Claimed) -> None:
        """Pass the grant of a session to ``done``: see :meth:`.SessionStore.claim_grant`."""
        digest = digest_of_valid(identity)
        found: list[Grant | None] = []
        self._write(
            lambda store: found.append(store.claim_grant(digest, now, until)),
            lambda failure: done(found[0] if failure is None else failure),
        )

    def renew(self, identity: bytes, roles: tuple[str, ...], grant: Grant, done: Done) -> None:
        """Replace roles and grant of a session; ``done`` is called when that is written."""
        digest = digest_of_valid(identity)
        self._write(lambda store: store.renew(digest, roles, grant), self._forget_around(digest, done))

    def _write(self, write: Callable[[SessionStore], None], done: Done) -> None:
        def ended(future: asyncio.Future[None]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            done(None if error is None else Failure(Kind.UNVERIFIABLE, f"the store of sessions: {error}"))

        try:
            writing = self._loop.run_in_executor(self._writer, self._writes.run, write)
        except RuntimeError:  # a reload has replaced this provider
            raise Failure(Kind.UNVERIFIABLE, "the store of sessions is closed") from None
        writing.add_done_callback(ended)

    def _refresh(self) -> None:
        self.method.refresh()
        self._timers["refresh"] = self._loop.call_later(REFRESH, self._refresh)

    def _schedule_write(self) -> None:
        self._timers["write"] = self._loop.call_later(min(WRITE, self.lifetimes.idle / 4), self._write_used)

    def _write_used(self) -> None:
        self._write_pending_uses()
        self._schedule_write()

    def _write_pending_uses(self) -> None:
        used, self.method.used = self.method.used, {}
        now = time.time()
        if used or now >= self._writes.swept + WRITE:
            self._writer.submit(self._writes.record_uses, used, self.lifetimes, now)


def digest_of_valid(identity: bytes) -> bytes:
    """Return the digest of a well-formed session id."""
    digest = digest_of(identity)
    assert digest is not None, "the id was created here, or looked up"
    return digest


class _SessionWriter:
    """The writes, which run in their thread: it opens the file at the first write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._store: SessionStore | None = None
        self.swept = 0.0

    def run(self, write: Callable[[SessionStore], None]) -> None:
        """Run ``write`` on the file.

        :raises sqlite3.Error: if it fails.
        """
        if self._store is None:
            self._store = SessionStore(self._path)
        else:
            self._store.changed()  # opens the file again if another one has replaced it
        write(self._store)

    def record_uses(self, used: dict[bytes, float], lifetimes: Lifetimes, now: float) -> None:
        """Write last uses and delete ended sessions. Uses that cannot be written are lost, and the error is logged."""
        self.swept = now
        try:
            self.run(lambda store: store.touch(used, lifetimes, now))
        except sqlite3.Error as error:
            _log.warning(
                "sessions: the last use of %d sessions could not be written: %s", len(used), error, extra=STORE
            )

    def close(self) -> None:
        """Close the file."""
        if self._store is not None:
            self._store.close()
