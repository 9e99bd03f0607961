"""One fetch: a request upstream on behalf of the cache.

A fetch does not belong to the client that caused it (the reader): the reader may disconnect while other requests wait
for the response. As long as the response may be stored, the fetch keeps all pieces of its body and sends them to the
reader as fast as the reader takes them, so that a slow reader does not delay the waiters. A response that may not be
stored is relayed piece by piece with backpressure, as without a cache.

The file is longer than 400 lines because a fetch is one class with all its outcomes.
"""

from __future__ import annotations

from time import time

from passerelle.caching.entry import Entry
from passerelle.caching.policy import (
    Merge,
    Miss,
    Refetch,
    RelayOnly,
    Stale,
    Store,
    UseStale,
    on_response,
    usable_on_failure,
)
from passerelle.caching.response import OriginResponse
from passerelle.caching.serving import STALE_HIT, cache_status
from passerelle.caching.single_flight import Flight
from passerelle.caching.storing import EntryDraft
from passerelle.errors import Failure, Kind
from passerelle.http1.head import ResponseHead
from passerelle.proxy_cache.heads import for_clients
from passerelle.proxy_cache.interfaces import FetchClient
from passerelle.proxy_cache.request import CacheRequest, conditional_request, make_upstream_request
from passerelle.upstream.interfaces import ResponseSource


class Fetch:
    """Fetches the response to ``request`` after the cache's ``decision``.

    ``entry`` is the stored response, if there is one. ``client`` is the reader; a background fetch has none. Requests
    that wait for the response join ``flight``.
    """

    __slots__ = (
        "_client",
        "_decision",
        "_draft",
        "_ended",
        "_entry",
        "_epoch",
        "_flight",
        "_over",
        "_paused",
        "_pieces",
        "_request",
        "_requested_at",
        "_response",
        "_sent_pieces",
        "_serve_from_body",
        "_size",
        "source",
        "streams",
    )

    def __init__(
        self,
        request: CacheRequest,
        decision: Miss | Stale,
        entry: Entry | None,
        client: FetchClient | None,
        flight: Flight[Entry] | None,
    ) -> None:
        self._request = request
        self._decision = decision
        self._entry = entry
        self._client = client
        self._flight = flight
        self._draft: EntryDraft | None = None
        self._response: ResponseHead | None = None
        self._pieces: list[bytes] = []
        self._sent_pieces = 0  # the number of pieces that the reader has received
        self._size = 0
        self._serve_from_body = False  # the reader receives its response from the complete body
        self._paused = False
        self._ended = False
        self._over = False
        self.streams = (
            client is not None and client.streams
        )  # in the background, the deadline holds for the whole response
        message = conditional_request(request.message, decision, request.view)
        self.source: ResponseSource = make_upstream_request(request, self, message, None)
        if flight is not None:
            request.plan.cache.fetches[flight.key] = self

    @property
    def is_current(self) -> bool:
        """Whether nothing was invalidated since the request was sent: only then may further requests join."""
        return self._request.plan.cache.store.is_current(self._request.key, self._epoch)

    @property
    def has_head(self) -> bool:
        """Whether the head of a response that other requests may share has arrived."""
        return self._response is not None

    def start(self) -> None:
        """Send the request upstream."""
        self._epoch = self._request.plan.cache.store.epoch
        self._requested_at = time()
        self.source.start()

    # ---- the reader

    def leave(self) -> None:
        """Detach the reader, which has disconnected. The fetch continues for waiters, or to store its response."""
        self._client = None
        if self._over:
            return
        waited_for = self._flight is not None and len(self._flight) > 0
        if self._draft is None and not (self._response is None and waited_for):
            self.source.cancel()
            self._end(None)
        elif self._paused:
            self._paused = False
            self.source.resume()

    def stop_pausing(self) -> None:
        """Read the response without waiting for the reader: another request waits for the whole."""
        if self._paused and self._draft is not None:
            self.source.resume()

    def pause(self) -> None:
        """Pause for the reader, which reads too slowly. Upstream is paused too, unless other requests wait."""
        self._paused = True
        if self._draft is None or self._flight is None or not len(self._flight):
            self.source.pause()

    def resume(self) -> None:
        """Resume sending to the reader."""
        self._paused = False
        self._send_pieces()
        if not self._paused:
            self.source.resume()

    def _send_pieces(self) -> None:
        """Send the reader the pieces that it has not received."""
        client = self._client
        if client is None or self._serve_from_body or self._response is None:
            return
        while self._sent_pieces < len(self._pieces) and not self._paused:
            piece = self._pieces[self._sent_pieces]
            if self._draft is None and not self._ended:
                del self._pieces[self._sent_pieces]
            else:
                self._sent_pieces += 1
            client.on_data(piece)
        if self._ended and self._sent_pieces == len(self._pieces):
            self._client = None
            self._pieces = []
            client.on_end()

    # ---- the response (the receiver of an upstream request)

    def client_key(self) -> bytes | None:
        """Return the client that caused the fetch; None if it has left."""
        return self._client.client_key() if self._client is not None else None

    def on_interim(self, head: ResponseHead) -> None:
        """Relay a 1xx response."""
        if self._client is not None:
            self._client.on_interim(head)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Refuse a 101: the request had no Upgrade."""
        self.source.refuse(Failure(Kind.BAD_RESPONSE, "101 without an Upgrade in the request"))

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Store the response, use the stored one, or relay (RFC 9111 §3, §4.3.3)."""
        request = self._request
        plan = request.plan
        now = time()
        response = OriginResponse(
            head.status, head.fields, request_time=self._requested_at, response_time=now, relay=head.relay
        )
        outcome = on_response(
            request.view,
            response,
            self._entry,
            plan.settings,
            validated=isinstance(self._decision, Stale) and bool(self._decision.fields),
            tags=request.tags(),
        )
        if isinstance(outcome, Store) and (complete or outcome.draft.length <= self._max_body):
            self._store(outcome.draft, for_clients(head), data, complete)
        elif isinstance(outcome, Merge):
            self._merge(outcome, head)
        elif isinstance(outcome, UseStale):
            if not complete:
                self.source.cancel()
            self._serve_entry(self._stale(), STALE_HIT, (), "stale")
        elif isinstance(outcome, Refetch):
            drop = self._decision.drop
            self._decision = Miss(b"stale", drop, False)
            message = conditional_request(request.message, self._decision, request.view)
            self.source = make_upstream_request(request, self, message, None)
            self.start()
        else:
            assert isinstance(outcome, RelayOnly | Store)
            reason = "too-large" if isinstance(outcome, Store) else outcome.reason
            plan.not_stored[reason] = plan.not_stored.get(reason, 0) + 1
            if isinstance(outcome, Store) or outcome.forget:
                self._delete_stale()
            self._relay(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(data)
        if self._draft is not None:
            self._size += len(data)
            if self._size > self._max_body:
                self._stop_storing()
                return
        if not self._paused:
            self._send_pieces()

    def on_end(self) -> None:
        """Store the complete body."""
        draft = self._draft
        self._ended = True
        if draft is not None:
            self._store_body(draft, b"".join(self._pieces))
        if not self._paused:
            self._send_pieces()

    def on_failure(self, failure: Failure) -> None:
        """Serve a stale response if that is allowed, else relay the failure. An incomplete response is never stored."""
        request = self._request
        entry = self._entry
        if self._response is None and usable_on_failure(request.view, entry, time(), request.plan.settings):
            self._serve_entry(self._stale(), STALE_HIT, (), "stale")
            return
        self._draft = None
        client, self._client = self._client, None
        self._end(None)
        if client is not None:
            client.on_failure(failure)

    # ---- storing and serving

    def _store(self, draft: EntryDraft, head: ResponseHead, data: bytes, complete: bool) -> None:
        self._draft = draft
        self._response = head
        view = self._request.view
        is_partial = view.range is not None or view.if_none_match is not None or view.if_modified_since is not None
        self._serve_from_body = is_partial and head.status == 200
        if complete:
            self._ended = True
            if self._serve_from_body:
                self._store_body(draft, data)
                return
            entry, stored = self._build_and_place(draft, data)
            client, self._client = self._client, None
            if client is not None:
                client.on_relayed(head, data, True, self._status_line(stored))
            self._end(entry)
            return
        if data:
            self._pieces.append(data)
            self._size = len(data)
        if self._client is not None and not self._serve_from_body:
            self._sent_pieces = len(self._pieces)
            self._client.on_relayed(head, data, False, self._status_line(True))

    def _store_body(self, draft: EntryDraft, body: bytes) -> None:
        """Store the response with its complete ``body``, and serve a reader that needs the stored form."""
        entry, stored = self._build_and_place(draft, body)
        if self._serve_from_body and self._client is not None:
            client, self._client = self._client, None
            if entry is not None:
                client.on_entry(entry, self._status_line(stored), (), "miss")
            else:
                client.on_failure(Failure(Kind.TRUNCATED, "the body is shorter or longer than its Content-Length"))
        self._end(entry)

    def _build_and_place(self, draft: EntryDraft, body: bytes) -> tuple[Entry | None, bool]:
        """Return the entry (None where the body is incomplete), and whether it is stored."""
        request = self._request
        entry = draft.complete(body)
        if entry is None:
            return None, False
        variants = request.plan.cache.variants
        request.remember_route(entry)
        stored = variants.place(request.key, request.view, draft.names, entry, self._epoch, self._entry)
        if stored:
            self._share(entry)
        return entry, stored

    def _stop_storing(self) -> None:
        """Relay from here on: the body is too long to be stored."""
        self._release()
        self._draft = None
        self._delete_stale()
        self._release_waiters()
        client = self._client
        if client is None:
            self.source.cancel()
            self._over = True
            return
        del self._pieces[: self._sent_pieces]
        self._sent_pieces = 0
        if self._serve_from_body and self._response is not None:
            self._serve_from_body = False
            client.on_relayed(self._response, b"", False, self._status_line(False))
        if self._paused:
            self.source.pause()
        else:
            self._send_pieces()

    def _relay(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Relay the response to the reader alone."""
        self._release()
        self._release_waiters()
        client = self._client
        if client is None:
            if not complete:
                self.source.cancel()
            self._over = True
            return
        self._response = head
        self._ended = complete
        if complete:
            self._client = None
            self._over = True
        client.on_relayed(for_clients(head), data, complete, self._status_line(False))

    def _merge(self, outcome: Merge, head: ResponseHead) -> None:
        request = self._request
        cache = request.plan.cache
        entry = outcome.entry
        request.remember_route(entry)
        if outcome.keep:
            if cache.variants.place(request.key, request.view, outcome.names, entry, self._epoch, self._entry):
                self._share(entry)
        else:
            cache.invalidate((entry.key,), ())
        line = cache_status(self._decision.reason, head.status, stored=outcome.keep)
        client, self._client = self._client, None
        if client is not None:
            client.on_entry(entry, line, outcome.own, "revalidated")
        self._end(entry if outcome.keep else None)

    def _serve_entry(self, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...], outcome: str) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.on_entry(entry, status_line, added_lines, outcome)
        self._end(entry)

    def _end(self, entry: Entry | None) -> None:
        """End the fetch, and give the waiters ``entry`` or nothing."""
        self._release()
        self._over = True
        self._draft = None
        flight = self._detach_flight()
        if flight is None:
            return
        if entry is None:
            flight.abort()
        elif entry is self._entry or entry.fresh_until + entry.stale_while_revalidate > self._requested_at:
            flight.complete(entry)
        else:
            # RFC 9111 §4, §5.2.2.4: the response is never fresh, so each request must validate it.
            flight.release_uncached(time())

    def _release_waiters(self) -> None:
        """Let the waiters send requests of their own: they may not share this response."""
        flight = self._detach_flight()
        if flight is not None:
            flight.release_uncached(time())

    def _detach_flight(self) -> Flight[Entry] | None:
        """Take the flight out of the cache, so that no request joins; return it if there is one."""
        flight, self._flight = self._flight, None
        fetches = self._request.plan.cache.fetches
        if flight is not None and fetches.get(flight.key) is self:
            del fetches[flight.key]
        return flight

    @property
    def _max_body(self) -> int:
        """The longest body in bytes that both the route and the store allow; a longer one is not kept."""
        plan = self._request.plan
        return min(plan.settings.max_body, plan.cache.store.largest)

    def _delete_stale(self) -> None:
        """Invalidate the stored response, which the new one supersedes."""
        if self._entry is not None:
            self._request.plan.cache.invalidate((self._entry.key,), ())

    def _share(self, entry: Entry) -> None:
        """Copy ``entry``, stored in memory now, to the second level. Nothing to do without one."""

    def _release(self) -> None:
        """Release the claim to fetch in the second level. Nothing to do without one."""

    def _stale(self) -> Entry:
        if self._entry is None:
            raise RuntimeError("no stored response")
        return self._entry

    def _status_line(self, stored: bool) -> bytes:
        status = self._response.status if self._response is not None else 0
        return cache_status(self._decision.reason, status, stored=stored)
