"""One request upstream for the cache. It belongs to no client: whoever asked first may leave, the others still get it.

While the response may be stored its pieces are kept, and the client who asked first (the reader) is fed from them as
fast as it reads: one that reads slowly holds up nobody who waits for the whole. What may not be stored is relayed piece
by piece with backpressure, as if there were no cache.
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
from passerelle.proxy_cache.heads import without_tags
from passerelle.proxy_cache.interfaces import FetchClient
from passerelle.proxy_cache.request import CacheRequest, conditional_request, make_upstream_request
from passerelle.upstream.interfaces import ResponseSource


class Fetch:
    """Carries out ``request`` as ``decision`` says. ``entry`` is what was stored; ``flight`` who else waits, if any."""

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
        self._sent_pieces = 0  # how many pieces the reader has got
        self._size = 0
        self._serve_from_body = False  # the reader is answered from the whole
        self._paused = False
        self._ended = False
        self._over = False
        self.streams = client is not None and client.streams  # what comes in the background has until the deadline
        message = conditional_request(request.message, decision, request.view)
        self.source: ResponseSource = make_upstream_request(request, self, message, None)
        if flight is not None:
            request.plan.cache.fetches[flight.key] = self

    @property
    def is_current(self) -> bool:
        """Whether nothing of it was invalidated since it went upstream: only then may others still join."""
        return self._request.plan.cache.store.is_current(self._request.key, self._epoch)

    @property
    def has_head(self) -> bool:
        """Whether a response is on its way that others may get, or might have got: its head has come."""
        return self._response is not None

    def start(self) -> None:
        """Go upstream."""
        self._epoch = self._request.plan.cache.store.epoch
        self._requested_at = time()
        self.source.start()

    # ---- the reader

    def leave(self) -> None:
        """The reader is gone. The fetch goes on where somebody waits or it may be stored."""
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
        """Somebody waits for the whole: do not wait for the reader."""
        if self._paused and self._draft is not None:
            self.source.resume()

    def pause(self) -> None:
        """The reader does not keep up. Upstream waits for it, unless somebody else waits for the whole."""
        self._paused = True
        if self._draft is None or self._flight is None or not len(self._flight):
            self.source.pause()

    def resume(self) -> None:
        """The reader keeps up again."""
        self._paused = False
        self._send_pieces()
        if not self._paused:
            self.source.resume()

    def _send_pieces(self) -> None:
        """Give the reader what there is and it has not got."""
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

    # ---- the answer (the receiver of a forward)

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response."""
        if self._client is not None:
            self._client.on_interim(head)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """101 that nobody asked for."""
        self.source.refuse(Failure(Kind.BAD_RESPONSE, "101 that nobody asked for"))

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The response begins: what to do with it (RFC 9111 §3, §4.3.3)."""
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
            self._store(outcome.draft, without_tags(head), data, complete)
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
            if isinstance(outcome, Store) or outcome.forget:
                self._delete_stale()
            self._relay(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """More of the body."""
        self._pieces.append(data)
        if self._draft is not None:
            self._size += len(data)
            if self._size > self._max_body:
                self._stop_storing()
                return
        if not self._paused:
            self._send_pieces()

    def on_end(self) -> None:
        """The body is complete."""
        draft = self._draft
        self._ended = True
        if draft is not None:
            self._store_body(draft, b"".join(self._pieces))
        if not self._paused:
            self._send_pieces()

    def on_failure(self, failure: Failure) -> None:
        """No answer, or one that broke off: what is cut short is never stored."""
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

    # ---- what is made of it

    def _store(self, draft: EntryDraft, head: ResponseHead, data: bytes, complete: bool) -> None:
        self._draft = draft
        self._response = head
        view = self._request.view
        asks_for_less = view.range is not None or view.if_none_match is not None or view.if_modified_since is not None
        self._serve_from_body = asks_for_less and head.status == 200
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
        """The whole is there."""
        entry, stored = self._build_and_place(draft, body)
        if self._serve_from_body and self._client is not None:
            client, self._client = self._client, None
            if entry is not None:
                client.on_entry(entry, self._status_line(stored), (), "miss")
            else:
                client.on_failure(Failure(Kind.TRUNCATED, "the body is not as long as its head says"))
        self._end(entry)

    def _build_and_place(self, draft: EntryDraft, body: bytes) -> tuple[Entry | None, bool]:
        """The entry (None where the response is not whole), and whether the store took it."""
        request = self._request
        entry = draft.complete(body)
        if entry is None:
            return None, False
        shelf = request.plan.cache.variants
        request.remember_route(entry)
        held = shelf.place(request.key, request.view, draft.names, entry, self._epoch, self._entry)
        if held:
            self._share(entry)
        return entry, held

    def _stop_storing(self) -> None:
        """The body is too long to be stored: relay it from here on."""
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
        """The response is one client's alone."""
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
        client.on_relayed(without_tags(head), data, complete, self._status_line(False))

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
        """There is a response for those who wait, or there is none."""
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
            # RFC 9111 §4, §5.2.2.4: never fresh, so each must hear from upstream that it holds for him.
            flight.release_uncached(time())

    def _release_waiters(self) -> None:
        """Nobody else may have the answer."""
        flight = self._detach_flight()
        if flight is not None:
            flight.release_uncached(time())

    def _detach_flight(self) -> Flight[Entry] | None:
        """Who waits, if anybody can; nobody joins from here on."""
        flight, self._flight = self._flight, None
        fetches = self._request.plan.cache.fetches
        if flight is not None and fetches.get(flight.key) is self:
            del fetches[flight.key]
        return flight

    @property
    def _max_body(self) -> int:
        """The longest body that the route stores and the store can take: what is longer is not gathered."""
        plan = self._request.plan
        return min(plan.settings.max_body, plan.cache.store.largest)

    def _delete_stale(self) -> None:
        """What was stored is no longer what there is."""
        if self._entry is not None:
            self._request.plan.cache.invalidate((self._entry.key,), ())

    def _share(self, entry: Entry) -> None:
        """``entry`` is held in memory now. For a fetch with a second level, as is the next."""

    def _release(self) -> None: ...

    def _stale(self) -> Entry:
        if self._entry is None:
            raise RuntimeError("nothing was stored")
        return self._entry

    def _status_line(self, stored: bool) -> bytes:
        status = self._response.status if self._response is not None else 0
        return cache_status(self._decision.reason, status, stored=stored)
