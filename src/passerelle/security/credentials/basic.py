"""Basic authentication (RFC 7617): user names and passwords that clients send with each request.

A verification takes about 100 ms of CPU by design, so that it is done once: the keyed hash of what the client sent is
remembered, for a bounded time. Requests with the same credentials wait for one verification. Wrong passwords are
limited by user name and by address, and are remembered as well: a program that repeats an outdated one costs nothing
and uses up no attempts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Final, cast

from passerelle.errors import Failure, Kind
from passerelle.http.htpasswd import LONGEST, Users, name_objection, normalized
from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.credentials.login_throttle import LoginThrottle
from passerelle.security.credentials.redis_login_throttle import RedisLoginThrottle
from passerelle.security.guard import GuardedCall, PendingResult, RequestRefused
from passerelle.security.identity import Identity

# Maximum number of credentials remembered per worker, right and wrong ones.
REMEMBERED: Final = 10_000
REMEMBERED_WRONG: Final = 1_000

_SCHEME: Final = b"basic "
_LINE: Final = 6 + 4 * (2 * LONGEST + 1) // 3 + 4  # the longest value of the field that is read

Verify = Callable[[Callable[[], bool], Callable[[bool | None], None]], None]
"""Runs its first argument elsewhere, and then calls the second with the result, or with None if there is none.

Raises :class:`.Failure` if too many verifications wait.
"""


class PasswordCheck:
    """A verification that requests wait for. ``outcome`` returns the identity or raises the reason, once it is set."""

    __slots__ = ("_callbacks", "outcome")

    def __init__(self) -> None:
        self.outcome: Callable[[], Identity] | None = None
        self._callbacks: list[Callable[[], None]] = []

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the verification has ended."""
        self._callbacks.append(callback)

    def finish(self, outcome: Callable[[], Identity]) -> None:
        """Set the outcome, and call the callbacks."""
        self.outcome = outcome
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class BasicMethod:
    """Authentication by ``Authorization: Basic``.

    ``verify`` runs verifications, ``throttle`` limits wrong passwords, and ``subscriber`` maps an address to the key
    under which they are counted. ``remember`` is in seconds, like ``clock``, which is monotonic.
    """

    __slots__ = (
        "_checks",
        "_clock",
        "_key",
        "_known",
        "_remember",
        "_subscriber",
        "_throttle",
        "_users",
        "_verify",
        "_wrong",
        "challenge",
        "rejection",
    )

    def __init__(
        self,
        users: Users,
        verify: Verify,
        throttle: LoginThrottle | RedisLoginThrottle,
        subscriber: Callable[[bytes], bytes],
        realm: str,
        remember: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.challenge = self.rejection = b'Basic realm="%b", charset="UTF-8"' % realm.encode("ascii")
        self._users = users
        self._verify = verify
        self._throttle = throttle
        self._subscriber = subscriber
        self._remember = remember
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._known: BoundedMemo[tuple[float, Identity]] = BoundedMemo()
        self._wrong: BoundedMemo[tuple[float, str]] = BoundedMemo()
        self._checks: dict[bytes, PasswordCheck] = {}

    def use(self, users: Users) -> None:
        """Replace the users: nothing that was verified before is believed any more."""
        self._users = users
        self._known.clear()
        self._wrong.clear()
        self._checks.clear()

    def limit(self, throttle: LoginThrottle | RedisLoginThrottle) -> None:
        """Count wrong passwords with ``throttle`` from now on."""
        self._throttle = throttle

    def identify(self, call: GuardedCall) -> Identity | PendingResult | None:
        """Return the identity of the user."""
        lines = call.lines(b"authorization")
        if not lines:
            return None
        if len(lines) > 1:
            raise CredentialRejected("more than one Authorization field")
        value = lines[0].value
        if value[:6].lower() != _SCHEME:
            return None
        key = hashlib.blake2b(value, key=self._key, digest_size=16).digest()
        now = self._clock()
        known = self._known.touch(key)
        if known is not None and known[0] > now:
            return known[1]
        # One request may wait for several methods: each has its own entry (see redis_lookup.py).
        waiting = cast("dict[bytes, object] | None", call.pending)
        if waiting is not None and isinstance(check := waiting.get(key), PasswordCheck) and check.outcome is not None:
            return check.outcome()
        wrong = self._wrong.touch(key)
        if wrong is not None and wrong[0] > now:
            raise CredentialRejected(wrong[1])
        check = self._checks.get(key) or self._begin(key, value, call.address)
        if check.outcome is not None:
            return check.outcome()
        if waiting is None:
            waiting = call.pending = {}
        waiting[key] = check
        return check

    def _begin(self, key: bytes, value: bytes, address: bytes) -> PasswordCheck:
        name, password = parse_credentials(value)
        try:
            identity = Identity(name, (), "basic")
        except ValueError as error:
            raise CredentialRejected(str(error)) from None
        users, throttle = self._users, self._throttle
        subscriber = self._subscriber(address)
        check = self._checks[key] = PasswordCheck()

        def finish(outcome: Callable[[], Identity]) -> None:
            if self._checks.get(key) is check:
                del self._checks[key]
            check.finish(outcome)

        def counted(wait: int) -> None:
            if wait:
                finish(lambda: _refuse(name, wait))
                return
            try:
                self._verify(lambda: users.verify(name, password), ended)
            except Failure as failure:
                throttle.restore(name, subscriber)
                detail = failure.detail
                finish(lambda: _fail(detail))

        def ended(is_right: bool | None) -> None:
            if is_right is not False:
                throttle.restore(name, subscriber)
            if is_right is None:
                finish(lambda: _fail("the verification of a password was abandoned"))
                return
            is_current = users is self._users
            if is_right:
                if is_current:
                    self._known.keep(key, (self._clock() + self._remember, identity), REMEMBERED)
                finish(lambda: identity)
                return
            reason = f"the wrong password for {name!r}, or no such user"
            if is_current:
                self._wrong.keep(key, (self._clock() + self._remember, reason), REMEMBERED_WRONG)
            finish(lambda: _reject(reason))

        throttle.take_async(name, subscriber, counted)
        return check


def _refuse(name: str, wait: int) -> Identity:
    fields = [(b"Retry-After", b"%d" % wait)]
    raise RequestRefused(Kind.RATE_LIMITED, f"too many wrong passwords for {name!r}, or from its address", fields)


def _fail(detail: str) -> Identity:
    raise Failure(Kind.UNVERIFIABLE, detail)


def _reject(reason: str) -> Identity:
    raise CredentialRejected(reason)


def parse_credentials(value: bytes) -> tuple[str, str]:
    """Return name and password of a field value (RFC 7617 §2, with UTF-8); raise :class:`CredentialRejected`."""
    try:
        if len(value) > _LINE:
            raise ValueError
        name, colon, password = base64.b64decode(value[6:].strip(b" "), validate=True).decode().partition(":")
        if not colon or name_objection(name) or "\0" in password or len(password.encode()) > LONGEST:
            raise ValueError
    except (ValueError, binascii.Error):
        raise CredentialRejected("malformed user name or password") from None
    return normalized(name), password


class HideBasic:
    """Guard that keeps user names and passwords from services: ``Authorization: Basic`` is not forwarded."""

    __slots__ = ()

    def __call__(self, call: GuardedCall) -> None:
        """Hide such lines."""
        for field in call.lines(b"authorization"):
            if field.value[:6].lower() == _SCHEME:
                call.hidden_lines = [*call.hidden_lines, field.line]
