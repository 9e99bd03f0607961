"""The identity provider: its metadata, its keys, and the exchange of codes for ID tokens. Requests run in threads."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus, urlencode

import orjson

from passerelle.access.web_request import fetch
from passerelle.errors import Failure, Kind
from passerelle.observability.events import STORE
from passerelle.security.guard import PendingResult
from passerelle.security.jwt.key_set import FetchCallback, KeySet
from passerelle.security.oidc.metadata import Metadata, parse_metadata
from passerelle.security.oidc.pending_login import PendingLogin

# How often metadata and keys are fetched, and the least time between two attempts (seconds).
REFRESH: Final = 3600.0
COOLDOWN: Final = 5.0
WATCH: Final = 1.0
# Requests to the provider that run at once, and that wait; beyond, logins are refused.
THREADS: Final = 4
MOST_WAITING: Final = 64

_log = logging.getLogger(__name__)


class Tokens(NamedTuple):
    """What the gateway reads of a response of the token endpoint. ``id_token`` is empty without one."""

    id_token: str
    refresh: str | None


Done = Callable[[Tokens | Failure], None]
Result = tuple[int, bytes] | Exception
"""Status and body of a response, or why there is none."""


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """The provider, the client that the gateway is to it, and the address of the gateway.

    ``origin`` is that of browsers, without a path; ``prefix`` is the path before the steps of a login. ``leeway`` is in
    seconds, like ``refresh``, which is infinite if claims are not refreshed.
    """

    issuer: str
    client: str
    secret: str = field(repr=False)
    scopes: tuple[str, ...]
    origin: str
    prefix: str
    after_logout: str
    consumer_claim: str
    roles_claim: str
    leeway: float
    refresh: float

    @property
    def redirect_uri(self) -> str:
        """Where the provider sends browsers back."""
        return f"{self.origin}{self.prefix}/callback"


def unavailable(why: str) -> Failure:
    """Build the failure for a provider that does not respond: existing sessions go on."""
    failure = Failure(Kind.UNVERIFIABLE, f"the identity provider: {why}")
    failure.retry_after = int(COOLDOWN)
    return failure


class OidcProvider:
    """The provider under ``settings``."""

    def __init__(self, settings: OidcSettings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self._loop = loop
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="oidc")
        self._metadata: Metadata | None = None
        self._keys: KeySet | None = None
        self._fetching = False
        self._tried: float | None = None
        self._fetched = 0.0
        self._waiting: list[Callable[[], None]] = []
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to fetch metadata and keys."""
        self._discover()
        self._watch()

    def stop(self) -> None:
        """Stop; logins that wait for the provider fail."""
        if self._timer is not None:
            self._timer.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def metadata(self) -> Metadata | PendingResult:
        """Return the metadata, or what to wait for.

        :raises Failure: if the provider did not respond a moment ago.
        """
        if self._metadata is not None:
            return self._metadata
        if not self._fetching:
            if self._tried is not None and time.monotonic() - self._tried < COOLDOWN:
                raise unavailable("no metadata")
            self._discover()
        return self

    def keys(self) -> KeySet:
        """Return the keys.

        :raises Failure: if there were no metadata yet.
        """
        if self._keys is None:
            raise unavailable("no metadata")
        return self._keys

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the fetch of the metadata has ended."""
        self._waiting.append(callback)

    def exchange(self, metadata: Metadata, code: str, login: PendingLogin, done: Done) -> None:
        """Exchange a code; ``done`` is called with tokens, one of them an ID token, or with a failure.

        :raises Failure: if too many logins wait.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.settings.redirect_uri,
            "code_verifier": login.verifier,
        }

        def checked(tokens: Tokens | Failure) -> None:
            is_missing = isinstance(tokens, Tokens) and not tokens.id_token
            done(Failure(Kind.BAD_RESPONSE, "no ID token in the response to a code") if is_missing else tokens)

        self._request_tokens(metadata, form, checked)

    def refresh(self, metadata: Metadata, token: str, done: Done) -> None:
        """Exchange a refresh token; ``done`` is called with tokens, or with a failure: 400 if it is not valid any more.

        :raises Failure: if too many requests wait.
        """
        self._request_tokens(metadata, {"grant_type": "refresh_token", "refresh_token": token}, done)

    def _request_tokens(self, metadata: Metadata, form: dict[str, str], done: Done) -> None:
        settings = self.settings
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        if metadata.secret_in_body:
            form |= {"client_id": settings.client, "client_secret": settings.secret}
        else:  # RFC 6749 §2.3.1: each part is encoded as in a form
            pair = f"{quote_plus(settings.client)}:{quote_plus(settings.secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"

        def ended(result: Result) -> None:
            done(_tokens(result))

        self._run(lambda: fetch(metadata.token, headers, urlencode(form).encode("ascii")), ended)

    def _discover(self) -> None:
        self._fetching = True
        url = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            self._run(lambda: fetch(url, {"Accept": "application/json"}), self._discovered)
        except Failure as failure:
            self._discovered(OSError(failure.detail))

    def _discovered(self, result: Result) -> None:
        self._tried = time.monotonic()
        self._fetching = False
        try:
            metadata = parse_metadata(_body(result), self.settings.issuer)
        except (OSError, ValueError) as error:
            if self._timer is not None and not self._timer.cancelled():
                _log.warning("oidc: no metadata of %s: %s", self.settings.issuer, error, extra=STORE)
        else:
            self._fetched = self._tried
            if self._metadata is None or self._metadata.jwks != metadata.jwks:
                self._keys = self._key_set(metadata.jwks)
                self._keys.start()
            self._metadata = metadata
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def _key_set(self, url: str) -> KeySet:
        def get(done: FetchCallback) -> None:
            def ended(result: Result) -> None:
                try:
                    done(_body(result))
                except (OSError, ValueError) as error:
                    done(error)

            try:
                self._run(lambda: fetch(url, {"Accept": "application/jwk-set+json, application/json"}), ended)
            except Failure as failure:
                reason = OSError(failure.detail)
                self._loop.call_soon(lambda: done(reason))

        def failed(reason: str) -> None:
            _log.warning("oidc: the key set could not be fetched from %s: %s", url, reason, extra=STORE)

        return KeySet(get, time.monotonic, cooldown=COOLDOWN, refresh=REFRESH, failed=failed)

    def _watch(self) -> None:
        now = time.monotonic()
        if self._keys is not None:
            self._keys.keep_fresh()
        old = self._metadata is not None and now - self._fetched >= REFRESH
        if old and not self._fetching and (self._tried is None or now - self._tried >= REFRESH / 60):
            self._discover()
        self._timer = self._loop.call_later(WATCH, self._watch)

    def _run(self, call: Callable[[], tuple[int, bytes]], done: Callable[[Result], None]) -> None:
        if self._running >= THREADS + MOST_WAITING:
            raise unavailable(f"{MOST_WAITING} requests wait")

        def ended(future: asyncio.Future[tuple[int, bytes]]) -> None:
            self._running -= 1
            if future.cancelled():
                done(OSError("abandoned"))
                return
            error = future.exception()
            if error is None:
                done(future.result())
            else:
                done(error if isinstance(error, OSError | ValueError) else OSError(type(error).__name__))

        try:
            running = self._loop.run_in_executor(self._threads, call)
        except RuntimeError:  # a reload has replaced this provider
            raise unavailable("it is that of an earlier configuration") from None
        self._running += 1
        running.add_done_callback(ended)


def _body(result: Result) -> bytes:
    if isinstance(result, Exception):
        raise OSError(f"{type(result).__name__}: {result}")
    status, body = result
    if status != 200:
        raise OSError(f"status {status}")
    return body


def _tokens(result: Result) -> Tokens | Failure:
    """Return the tokens of a response of the token endpoint (RFC 6749 §5). No message contains a part of them."""
    if isinstance(result, Exception):
        return unavailable(f"no response of the token endpoint: {type(result).__name__}")
    status, body = result
    try:
        document: Any = orjson.loads(body)
    except ValueError:
        document = None
    if status in (400, 401) and isinstance(document, dict):
        # RFC 6749 §5.2: a code that is unknown, used or expired is invalid_grant; anything else is a wrong setting.
        error = document.get("error")
        if error == "invalid_grant":
            return Failure(Kind.BAD_REQUEST, "the provider refused the code or the refresh token", public=BEGIN_AGAIN)
        return Failure(Kind.BAD_RESPONSE, f"the provider refused the client: {str(error)[:64]!r}")
    if status != 200:
        return unavailable(f"status {status} of the token endpoint")
    if not isinstance(document, dict) or str(document.get("token_type")).lower() != "bearer":
        return Failure(Kind.BAD_RESPONSE, "no tokens in the response of the provider")
    token, refresh = document.get("id_token"), document.get("refresh_token")
    return Tokens(token if isinstance(token, str) else "", refresh if isinstance(refresh, str) else None)


BEGIN_AGAIN: Final = "The login cannot be completed: it took too long, or began in another browser. Begin it again."
