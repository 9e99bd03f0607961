"""The users that a worker accepts, from a file that is checked for changes, and the thread that verifies passwords."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from passerelle.errors import Failure, Kind
from passerelle.http.htpasswd import MOST_BYTES, parse_users
from passerelle.observability.events import STORE
from passerelle.security.credentials.basic import BasicMethod
from passerelle.security.credentials.login_throttle import LoginThrottle
from passerelle.security.credentials.redis_login_throttle import RedisLoginThrottle
from passerelle.system.files import read_at_most

# How often the file is checked for changes (seconds): the longest time until a removed user is refused.
REFRESH: Final = 1.0
# Maximum number of verifications of a worker that wait for the one that runs.
MOST_WAITING: Final = 64
# How much lower the priority of the thread is: the event loop of the worker comes first.
_NICE: Final = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BasicSettings:
    """The file of users, the realm, and for how many seconds a verified password is remembered."""

    file: Path
    realm: str
    remember: float


class BasicProvider:
    """The source of users under ``settings``.

    Passwords are verified in one thread: however many are guessed, they take at most one processor, at a lower priority
    than requests.

    :raises OSError: if the file cannot be read.
    :raises ValueError: if a line of it is wrong.
    """

    def __init__(
        self,
        settings: BasicSettings,
        loop: asyncio.AbstractEventLoop,
        throttle: LoginThrottle | RedisLoginThrottle,
        subscriber: Callable[[bytes], bytes],
    ) -> None:
        self.settings = settings
        self._loop = loop
        self._seen = _version(settings.file)
        users = parse_users(read_at_most(settings.file, MOST_BYTES))
        self.method = BasicMethod(users, self._verify, throttle, subscriber, settings.realm, settings.remember)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="passwords", initializer=_lower_priority)
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to check the file."""
        self._timer = self._loop.call_later(REFRESH, self._refresh)

    def stop(self) -> None:
        """Stop, and abandon the verifications that wait."""
        if self._timer is not None:
            self._timer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _verify(self, verify: Callable[[], bool], done: Callable[[bool | None], None]) -> None:
        if self._waiting > MOST_WAITING:
            raise Failure(Kind.UNVERIFIABLE, f"{MOST_WAITING} passwords wait for their verification")

        def ended(future: asyncio.Future[bool]) -> None:
            self._waiting -= 1
            if future.cancelled():
                done(None)
            elif (error := future.exception()) is not None:
                _log.error("basic: a password could not be verified", exc_info=error)
                done(None)
            else:
                done(future.result())

        try:
            running = self._loop.run_in_executor(self._thread, verify)
        except RuntimeError:  # a reload has replaced this provider
            raise Failure(Kind.UNVERIFIABLE, "the users are those of an earlier configuration") from None
        self._waiting += 1
        running.add_done_callback(ended)

    def _refresh(self) -> None:
        """Read the file again if it has changed. Users stay as they are while it cannot be used."""
        version = _version(self.settings.file)
        if version != self._seen:
            self._seen = version
            try:
                self.method.use(parse_users(read_at_most(self.settings.file, MOST_BYTES)))
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                _log.warning(
                    "basic: %s cannot be used, and the users stay as they were: %s",
                    self.settings.file,
                    reason,
                    extra=STORE,
                )
        self._timer = self._loop.call_later(REFRESH, self._refresh)


def _version(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _lower_priority() -> None:
    # Linux has a priority for each thread; the threads of argon2 inherit it.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
