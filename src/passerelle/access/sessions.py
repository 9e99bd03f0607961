"""Sessions in a running worker. Those in a file: it is watched, and everything that is written to it is written on one
thread."""

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
from passerelle.security.credentials.session_store import Lifetimes, Session, SessionStore, digest_of, new_id
from passerelle.security.credentials.sessions import FileSessionMethod, OriginCheck, SessionCookies, SessionMethod

# How often it is asked whether the file has changed (seconds): a session that another worker has ended is refused at
# most this much later.
REFRESH = 0.5
# How often last uses are written at least, if there are any (seconds); more often where sessions idle for a short time.
WRITE = 5.0

# Told of the end of a write: None, or why it could not be done.
Done = Callable[[Failure | None], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The rules of sessions: ``cookie`` without its prefix, lifetimes in seconds.

    ``insecure`` cookies have neither ``Secure`` nor ``__Host-``. With ``token``, requests that change something need
    the CSRF token of their session. ``origins`` are those whose pages may use sessions beside the gateway's own.
    """

    cookie: str
    idle: float
    absolute: float
    token: bool
    origins: tuple[str, ...]
    insecure: bool


class SessionProvider:
    """The sessions that ``settings`` describes, wherever they are kept."""

    method: SessionMethod

    def __init__(self, settings: SessionSettings) -> None:
        self.settings = settings
        self.cookies = SessionCookies.named(settings.cookie, secure=not settings.insecure)
        self.origin = OriginCheck(settings.origins, token=settings.token, secure=not settings.insecure)
        self.lifetimes = Lifetimes(settings.idle, settings.absolute)

    def start(self) -> None:
        """Begin what goes on beside the requests."""

    def stop(self) -> None:
        """End it."""

    def check(self) -> None:
        """:class:`Failure` where no session could begin now."""

    def open(self, user: str, roles: tuple[str, ...], old: bytes | None, done: Done) -> bytes:
        """A new session in the place of the one with the id ``old``; gives its id, which holds once ``done`` is told
        so."""
        raise NotImplementedError

    def revoke(self, identity: bytes, done: Done) -> None:
        """End a session; ``done`` is told when it is written that it has ended."""
        raise NotImplementedError

    def _forget_around(self, digest: bytes | None, done: Done) -> Done:
        """Forget the session now, and again at the end: it may be looked up once more before its end is written."""

        def then(failure: Failure | None) -> None:
            if digest is not None:
                self.method.forget(digest)
            done(failure)

        if digest is not None:
            self.method.forget(digest)
        return then


class FileSessionProvider(SessionProvider):
    """Sessions in the file ``path``. sqlite3.Error when it cannot be used."""

    method: FileSessionMethod

    def __init__(self, settings: SessionSettings, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(settings)
        self._loop = loop
        self._store = SessionStore(path)
        self.method = FileSessionMethod(self._store, self.cookies, self.lifetimes, self.origin)
        # One thread, so that writes happen in their order; a writer may have to wait for the disk, or for another one.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sessions")
        self._writes = _SessionWriter(path)
        self.path = path
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Begin to watch."""
        self._refresh()
        self._schedule_write()

    def stop(self) -> None:
        """Write what there is, and close the file."""
        for timer in self._timers.values():
            timer.cancel()
        self._write_pending_uses()
        self._writer.submit(self._writes.close)
        self._writer.shutdown(wait=True)
        self._store.close()

    def open(self, user: str, roles: tuple[str, ...], old: bytes | None, done: Done) -> bytes:
        """A new session in the place of the one with the id ``old``; gives its id, which holds once ``done`` is told
        so."""
        identity = new_id()
        now = time.time()
        session = Session(user, roles, now, now)
        ended = None if old is None else digest_of_valid(old)
        self._write(
            lambda store: store.replace(ended, digest_of_valid(identity), session), self._forget_around(ended, done)
        )
        return identity

    def revoke(self, identity: bytes, done: Done) -> None:
        """End a session; ``done`` is told when it is written that it has ended."""
        digest = digest_of_valid(identity)
        self._write(lambda store: store.revoke(digest), self._forget_around(digest, done))

    def _write(self, write: Callable[[SessionStore], None], done: Done) -> None:
        def ended(future: asyncio.Future[None]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            done(None if error is None else Failure(Kind.UNVERIFIABLE, f"the store of sessions: {error}"))

        try:
            writing = self._loop.run_in_executor(self._writer, self._writes.run, write)
        except RuntimeError:  # a reload has put other sessions in the place of these
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
    """The digest of an id that has the form of one."""
    digest = digest_of(identity)
    assert digest is not None, "an id of our own, or one that was looked up"
    return digest


class _SessionWriter:
    """What runs on the thread: the file is opened there with the first write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._store: SessionStore | None = None
        self.swept = 0.0

    def run(self, write: Callable[[SessionStore], None]) -> None:
        """Write, or raise sqlite3.Error."""
        if self._store is None:
            self._store = SessionStore(self._path)
        write(self._store)

    def record_uses(self, used: dict[bytes, float], lifetimes: Lifetimes, now: float) -> None:
        """Note last uses and sweep; what cannot be written is lost, and said in the log of the process."""
        self.swept = now
        try:
            self.run(lambda store: store.touch(used, lifetimes, now))
        except sqlite3.Error as error:
            _log.warning("sessions: the last use of %d sessions could not be written: %s", len(used), error)

    def close(self) -> None:
        """Close the file."""
        if self._store is not None:
            self._store.close()
