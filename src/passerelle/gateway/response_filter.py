"""Plugins that filter responses: they run after the cache and before compression, for each client.

Stored responses are therefore unchanged, and no client receives what a filter made for another one. While a filter
runs, nothing of the response is sent, and the service is not read further. A filter that has read a field of the
request makes the response vary by it.
"""

from __future__ import annotations

from time import time
from typing import Protocol

from passerelle.caching.entry import Entry
from passerelle.caching.request import RequestView
from passerelle.caching.serving import serve
from passerelle.errors import Failure, Kind, reason_phrase
from passerelle.gateway.client_relay import ClientRelay
from passerelle.http.messages import HOP_BY_HOP, list_members
from passerelle.http1.head import ResponseHead
from passerelle.plugin_host.guards import encoded
from passerelle.plugin_host.requests import ReceivedHeaders, headers_read, request_of
from passerelle.plugin_host.runner import PluginCall, PluginRunner
from passerelle.plugins import Request, Response, ResponseChange
from passerelle.proxy_cache.heads import AnnotatedHead
from passerelle.proxy_cache.interfaces import CacheClient
from passerelle.security.guard import GuardedCall

# What describes a body that a plugin has replaced.
_OF_BODY = HOP_BY_HOP | {
    *(
        b"accept-ranges",
        b"content-digest",
        b"content-length",
        b"content-md5",
        b"digest",
        b"etag",
        b"last-modified",
        b"repr-digest",
    ),
}
# The bytes of a body that arrive while a filter of heads runs, although the service is paused, at most.
MOST_HELD = 4 * 1024 * 1024


class ResponseFilterStep:
    """A plugin that filters the responses of ``route``, and bodies up to ``body`` bytes unless it is None."""

    __slots__ = ("body", "open_on_failure", "route", "runner")

    def __init__(self, runner: PluginRunner, route: str, body: int | None, *, open_on_failure: bool = False) -> None:
        self.runner = runner
        self.route = route
        self.body = body
        self.open_on_failure = open_on_failure


class FilterExchange(Protocol):
    """The exchange of the client, as filters use it."""

    @property
    def finished(self) -> bool:
        """Whether the response was sent, or the client disconnected."""

    def guarded_call(self) -> GuardedCall:
        """The request as guards see it."""

    def on_client_paused(self) -> None:
        """Pause the source of the response."""

    def on_client_resumed(self) -> None:
        """Resume the source of the response."""

    def on_body_failure(self, failure: Failure) -> None:
        """Cancel the source of the response, and send the error response."""

    def on_defect(self, error: Exception) -> None:
        """Respond with 500 after an unexpected exception."""


class FilteredResponse(ClientRelay):
    """The response to one request as it passes through one filter to ``client``, the next receiver."""

    __slots__ = (
        "_body",
        "_complete",
        "_exchange",
        "_head",
        "_method",
        "_request",
        "_size",
        "_state",
        "_step",
    )

    def __init__(self, client: CacheClient, exchange: FilterExchange, step: ResponseFilterStep, method: bytes) -> None:
        super().__init__(client)
        self._exchange = exchange
        self._step = step
        self._method = method
        self._head: ResponseHead | None = None
        self._body: list[bytes] = []
        self._size = 0  # of the body
        self._complete = False
        self._request: Request | None = None
        # "collecting": the body; "running": the plugin; "passing": to the client as it arrives; "over".
        self._state = "passing"

    def on_failure(self, failure: Failure) -> None:
        """Relay a failure. What was held back is dropped."""
        if self._state != "over":
            self._end()
            self._client.on_failure(failure)

    def on_stored(self, view: RequestView, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...]) -> None:
        """Filter a stored response; where bodies are filtered it is always whole."""
        if self._step.body is not None:
            view = RequestView(view.method, [])
        # The client adds Cache-Status.
        _, head, body = serve(view, entry, time(), status_line=b"", added_lines=added_lines)
        self.on_response(ResponseHead(head + b"\r\n"), bytes(body), True)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Run the filter, or collect the body for it."""
        self._head, self._body, self._size, self._complete = head, [data], len(data), complete
        limit = self._step.body
        if limit is None or self._method == b"HEAD" or not head.bodied:
            self._run(None)
        elif (coding := head.get(b"content-encoding")) is not None and coding.lower() != b"identity":
            self._skip(f"the service sent the body with Content-Encoding {coding.decode('latin-1')[:40]}")
        elif head.status == 206:
            self._skip("the service sent a part of the body")
        elif (head.get(b"content-type") or b"").lower().startswith(b"text/event-stream"):
            self._skip("an event stream has no end")
        elif max(head.content_length, len(data)) > limit:
            self._skip(f"the body has more than {limit} bytes")
        elif complete:
            self._run(data)
        else:
            self._state = "collecting"

    def on_data(self, data: bytes) -> None:
        """Relay a piece of the body, or keep it until the filter has run."""
        if self._state == "passing":
            self._client.on_data(data)
            return
        if self._state == "over":
            return
        self._body.append(data)
        self._size += len(data)
        if self._state == "collecting":
            limit = self._step.body or 0
            if self._size > limit:
                self._skip(f"the body has more than {limit} bytes")
        elif self._size > MOST_HELD:
            self._fail(Failure(Kind.PLUGIN_FAILED, f"{self._step.runner.name}: too much of the body arrived meanwhile"))

    def on_end(self) -> None:
        """End the response, after the filter has run."""
        if self._state == "passing":
            self._client.on_end()
        elif self._state == "collecting":
            self._complete = True
            self._run(b"".join(self._body))
        elif self._state == "running":
            self._complete = True

    # ---- the filter

    def _run(self, body: bytes | None) -> None:
        head, step = self._head, self._step
        assert head is not None
        self._request = request_of(self._exchange.guarded_call(), step.route, tracked=True)
        self._state = "running"
        call = step.runner.run(self._request, Response(head.status, ReceivedHeaders(head), body))
        if call.completed:
            self._apply(call)
            return
        if not self._complete:
            self._exchange.on_client_paused()
        call.add_done_callback(lambda: self._resume(call))

    def _resume(self, call: PluginCall) -> None:
        if self._exchange.finished or self._state != "running":
            return
        try:
            if not self._complete:
                self._exchange.on_client_resumed()  # before anything is sent, which may pause the source again
            if self._state == "running":
                self._apply(call)
        except Exception as error:
            self._exchange.on_defect(error)

    def _apply(self, call: PluginCall) -> None:
        runner, result, failure = self._step.runner, call.result, call.failure
        if failure is None and result is not None and not isinstance(result, ResponseChange):
            failure = runner.refuse_result(f"it returned a {type(result).__name__}, not ResponseChange or None")
        elif failure is None and isinstance(result, ResponseChange):
            assert self._head is not None
            if result.body is not None and self._step.body is None:
                failure = runner.refuse_result("it replaced a body; set its key body")
            elif result.status is not None and (not self._head.bodied or self._head.status == 206):
                failure = runner.refuse_result(f"it replaced the status {self._head.status}, which has no whole body")
        if failure is not None:
            if self._step.open_on_failure:
                self._pass_on(self._changed(None))
            else:
                self._fail(failure)
            return
        runner.metrics.count("unchanged" if result is None else "changed")
        body = result.body if result is not None else None
        head = self._changed(result)
        if body is None or self._method == b"HEAD":
            self._pass_on(head)
        else:
            self._body, self._complete = [body], True
            self._pass_on(head)

    def _changed(self, change: ResponseChange | None) -> ResponseHead:
        """Return the head with ``change``, and with the fields of the request that the filter has read in Vary."""
        head, request = self._head, self._request
        assert head is not None and request is not None
        read = headers_read(request) if self._method in (b"GET", b"HEAD") else set()
        varied = {name.lower() for line in head.named(b"vary") for name in list_members(line.value)}
        if change is not None and "vary" in map(str.lower, (*change.set_headers, *change.remove_headers)):
            varied = set()
        missing = sorted(name for name in read if name.encode("ascii", "replace") not in varied)
        whole = self._step.body is not None and head.bodied
        if change is None and not (missing and b"*" not in varied) and not (whole and self._method == b"HEAD"):
            return head
        removed, added = set(), []
        status_line = head.raw.partition(b"\r\n")[0]
        if change is not None:
            removed = {name.lower().encode("ascii") for name in (*change.set_headers, *change.remove_headers)}
            added = [b"%b: %b" % field for field in encoded(change.set_headers)]
            if change.status is not None:
                status_line = b"HTTP/1.1 %d %b" % (change.status, reason_phrase(change.status))
        if self._method == b"HEAD" and whole:
            removed |= _OF_BODY  # those of the body that a GET would get are not known
        elif change is not None and change.body is not None:
            removed |= _OF_BODY
            added.append(b"Content-Length: %d" % len(change.body))
        if missing and b"*" not in varied:
            added.append(b"Vary: " + ", ".join(missing).encode("ascii", "replace"))
        kept = [line.line for line in head.lines if line.name not in removed]
        raw = b"\r\n".join([status_line, *kept, *added, b"", b""])
        return AnnotatedHead(raw, head.added_lines) if isinstance(head, AnnotatedHead) else ResponseHead(raw)

    def _pass_on(self, head: ResponseHead) -> None:
        self._state = "passing"
        body, self._body = b"".join(self._body), []
        self._client.on_response(head, body, self._complete)

    def _skip(self, reason: str) -> None:
        """Do without the filter, because it cannot have the body: pass the response on, or fail."""
        runner = self._step.runner
        runner.metrics.count("skipped")
        if self._step.open_on_failure:
            assert self._head is not None
            self._pass_on(self._head)
        else:
            self._fail(Failure(Kind.PLUGIN_FAILED, f"{runner.name}: {reason}"))

    def _fail(self, failure: Failure) -> None:
        self._end()
        self._exchange.on_body_failure(failure)

    def _end(self) -> None:
        self._state = "over"
        self._body = []
