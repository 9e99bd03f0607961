"""Plugins as guards of a route: those that admit or refuse, and those that filter the request to the service.

Both are guards in the sense of :mod:`passerelle.security.guard`. A guard fails closed: without a result, the client
receives 500 or 503. A filter does the same, or with ``open_on_failure`` leaves the request as it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from hashlib import blake2b
from typing import Any

import orjson

from passerelle.errors import Failure, Kind, reason_phrase
from passerelle.http.messages import Fields, Response
from passerelle.plugin_host.requests import TrackedRequest, digest_of_reads, request_of
from passerelle.plugin_host.runner import PluginCall, PluginRunner
from passerelle.plugins import Allow, Refuse, RequestChange, Values
from passerelle.security.guard import GuardedCall, RequestRefused
from passerelle.security.identity import Identity

# Refusals with these statuses are failures of a known kind, which metrics and logs count.
_KINDS = {401: Kind.UNAUTHENTICATED, 403: Kind.FORBIDDEN, 429: Kind.RATE_LIMITED}


class _PluginStep:
    """What both have. ``sets`` are the fields (lower case) that the plugin may set for the service."""

    __slots__ = ("_route", "_runner", "_sets", "_tracks")

    def __init__(self, runner: PluginRunner, route: str, sets: Collection[str], *, tracks: bool = False) -> None:
        self._runner = runner
        self._route = route
        self._sets = frozenset(name.lower() for name in sets)
        self._tracks = tracks

    def __call__(self, call: GuardedCall) -> Response | PluginCall | None:
        """Call the plugin, or apply its result if the call that ``call`` waited for has ended."""
        pending = call.pending
        if isinstance(pending, PluginCall) and pending.runner is self._runner:
            call.pending = None
        else:
            pending = self._runner.run(request_of(call, self._route, tracked=self._tracks))
            if not pending.completed:
                call.pending = pending
                return pending
        if pending.failure is not None:
            self._on_failure(pending.failure)
            return None
        return self._apply(call, pending)

    def _on_failure(self, failure: Failure) -> None:
        raise failure

    def _apply(self, call: GuardedCall, done: PluginCall) -> Response | None:
        raise NotImplementedError

    def _lines(self, fields: Values) -> bytes:
        """Return the field lines for the service.

        :raises Failure: if the plugin may not set one of ``fields``.
        """
        for name in fields:
            if name.lower() not in self._sets:
                raise self._runner.refuse_result(f"it set the field {name}, which its key sets does not name")
        return b"".join(b"%b: %b\r\n" % (name, value) for name, value in encoded(fields))


class PluginGuard(_PluginStep):
    """A plugin that admits requests or refuses them. ``tracks``: responses of the route are stored."""

    __slots__ = ()

    def _apply(self, call: GuardedCall, done: PluginCall) -> Response | None:
        result, runner = done.result, self._runner
        if isinstance(result, Refuse):
            runner.metrics.count("refused")
            return _refusal(runner.name, result)
        if result is not None and not isinstance(result, Allow):
            raise runner.refuse_result(f"it returned a {type(result).__name__}, not Allow, Refuse or None")
        lines, identity = b"", None
        if result is not None:
            lines = self._lines(result.headers)
            identity = self._identity(result)
        digest = digest_of_reads(done.arguments[0]) if isinstance(done.arguments[0], TrackedRequest) else b""
        runner.metrics.count("allowed")
        if identity is not None:
            if call.identity is not None:
                call.upstream_fields = call.upstream_fields.replace(call.identity.lines, b"", 1)
            call.identity = identity
            call.upstream_fields += identity.lines
        if result is not None and result.headers:
            hide(call, [name.lower() for name in result.headers])
            call.upstream_fields += lines
        add_variant(call, lines, digest)
        return None

    def _identity(self, result: Allow) -> Identity | None:
        if result.consumer is None:
            return None
        try:
            return Identity(result.consumer, result.scopes, "plugin", claims=result.claims)
        except ValueError as error:
            raise self._runner.refuse_result(str(error)) from None


class RequestFilterStep(_PluginStep):
    """A plugin that changes the request to the service."""

    __slots__ = ("_open",)

    def __init__(
        self, runner: PluginRunner, route: str, sets: Collection[str], *, open_on_failure: bool = False
    ) -> None:
        super().__init__(runner, route, sets)
        self._open = open_on_failure

    def _on_failure(self, failure: Failure) -> None:
        if not self._open:
            raise failure

    def _apply(self, call: GuardedCall, done: PluginCall) -> Response | None:
        result, runner = done.result, self._runner
        if result is None:
            runner.metrics.count("unchanged")
            return None
        try:
            if not isinstance(result, RequestChange):
                raise runner.refuse_result(f"it returned a {type(result).__name__}, not RequestChange or None")
            lines = self._lines(result.set_headers)
        except Failure as failure:
            self._on_failure(failure)
            return None
        runner.metrics.count("changed")
        removed = [name.lower() for name in result.remove_headers]
        hide(call, {*map(str.lower, result.set_headers), *removed})
        if result.query is not None:
            call.forwarded_query = b"?" + result.query.encode("ascii") if result.query else b""
        call.upstream_fields += lines
        # The query is a part of the key of the cache.
        add_variant(call, lines, "\0".join(sorted(removed)).encode("ascii"))
        return None


class HideConditions:
    """Hides conditions, ranges and codings of a client from the service, for filters that need whole bodies."""

    __slots__ = ()

    def __call__(self, call: GuardedCall) -> None:
        """Hide the fields, and ask for the body without a coding."""
        if call.method in (b"GET", b"HEAD"):
            hide(call, _FOR_PARTS_OF_BODIES)
        else:
            hide(call, {"accept-encoding"})
        call.upstream_fields += b"Accept-Encoding: identity\r\n"


_FOR_PARTS_OF_BODIES = frozenset({"accept-encoding", "if-modified-since", "if-none-match", "if-range", "range"})


def hide(call: GuardedCall, names: Collection[str]) -> None:
    """Do not forward the fields ``names`` (lower case), neither those of the client nor those that plugins have set."""
    if not names:
        return
    plain = {name.replace("_", "-").encode("ascii") for name in names}
    own = [field.line for field in call.fields if field.name.replace(b"_", b"-") in plain]
    if own:
        call.hidden_lines = [*call.hidden_lines, *own]
    if call.upstream_fields:
        lines = b"|".join(re.escape(name) for name in plain)
        call.upstream_fields = re.sub(rb"(?im)^(?:%b):[^\r\n]*\r\n" % lines, b"", call.upstream_fields)


def add_variant(call: GuardedCall, *parts: bytes) -> None:
    """Have the cache tell this request from others by ``parts`` as well."""
    if any(parts):
        sized = (b"%d:%b" % (len(part), part) for part in (call.variant_identity, *parts))
        call.variant_identity = blake2b(b"".join(sized), digest_size=16).digest()


def encoded(fields: Values) -> Iterable[tuple[bytes, bytes]]:
    """Return each line of ``fields``: its name and its value."""
    for name, values in fields.items():
        for value in (values,) if isinstance(values, str) else values:
            yield name.encode("ascii"), value.encode("latin-1")


def _refusal(plugin: str, refused: Refuse) -> Response:
    fields: Fields = list(encoded(refused.headers))
    kind = _KINDS.get(refused.status)
    if refused.body is None and kind is not None:
        raise RequestRefused(kind, f"plugin {plugin}{': ' if refused.reason else ''}{refused.reason}", fields)
    names = {name.lower() for name, _ in fields}
    if b"cache-control" not in names:
        fields.append((b"Cache-Control", b"no-store"))
    if refused.body is not None:
        return Response(refused.status, fields, refused.body)
    if refused.status < 400:
        return Response(refused.status, fields)
    details: dict[str, Any] = {
        "type": "about:blank",
        "title": reason_phrase(refused.status).decode("ascii") or "Refused",
        "status": refused.status,
    }
    fields.append((b"Content-Type", b"application/problem+json"))
    return Response(refused.status, fields, orjson.dumps(details))
