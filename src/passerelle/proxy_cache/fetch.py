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
    Nothing,
    Refetch,
    Stale,
    Store,
    UseStale,
    on_response,
    usable_on_failure,
)
from passerelle.caching.response import Received
from passerelle.caching.serving import STALE_HIT, forwarded
from passerelle.caching.single_flight import Flight
from passerelle.caching.storing import Draft
from passerelle.errors import Failure, Kind
from passerelle.http1.head import ResponseHead
from passerelle.proxy_cache.heads import without_tags
from passerelle.proxy_cache.interfaces import Reader
from passerelle.proxy_cache.request import Wanted, begin, edited
from passerelle.upstream.interfaces import Source


class Fetch:
    """Carries out ``wanted`` as ``decision`` says. ``entry`` is what was stored; ``flight`` who else waits, if any."""

    __slots__ = (
        "_asked_at",
        "_decision",
        "_draft",
        "_ended",
        "_entry",
        "_epoch",
        "_fed",
        "_flight",
        "_held",
        "_over",
        "_paused",
        "_pieces",
        "_reader",
        "_response",
        "_size",
        "_wanted",
        "forward",
        "streams",
    )

    def __init__(
        self,
        wanted: Wanted,
        decision: Miss | Stale,
        entry: Entry | None,
        reader: Reader | None,
        flight: Flight[Entry] | None,
    ) -> None:
        self._wanted = wanted
        self._decision = decision
        self._entry = entry
        self._reader = reader
        self._flight = flight
        self._draft: Draft | None = None
        self._response: ResponseHead | None = None
        self._pieces: list[bytes] = []
        self._fed = 0  # how many pieces the reader has got
        self._size = 0
        self._held = False  # the reader is answered from the whole
        self._paused = False
        self._ended = False
        self._over = False
        self.streams = reader is not None and reader.streams  # what comes in the background has until the deadline
        message = edited(wanted.message, decision, wanted.facts)
        self.forward: Source = begin(wanted, self, message, None)
        if flight is not None:
            wanted.plan.cache.fetches[flight.key] = self

    @property
    def is_current(self) -> bool:
        """Whether nothing of it was invalidated since it went upstream: only then may others still join."""
        return self._wanted.plan.cache.store.is_current(self._wanted.key, self._epoch)

    @property
    def has_begun(self) -> bool:
        """Whether a response is on its way that others may get, or might have got: its head has come."""
        return self._response is not None

    def start(self) -> None:
        """Go upstream."""
        self._epoch = self._wanted.plan.cache.store.epoch
        self._asked_at = time()
        self.forward.start()

    # ---- the reader

    def leave(self) -> None:
        """The reader is gone. The fetch goes on where somebody waits or it may be stored."""
        self._reader = None
        if self._over:
            return
        waited_for = self._flight is not None and len(self._flight) > 0
        if self._draft is None and not (self._response is None and waited_for):
            self.forward.cancel()
            self._end(None)
        elif self._paused:
            self._paused = False
            self.forward.resume()

    def hurry(self) -> None:
        """Somebody waits for the whole: do not wait for the reader."""
        if self._paused and self._draft is not None:
            self.forward.resume()

    def pause(self) -> None:
        """The reader does not keep up. Upstream waits for it, unless somebody else waits for the whole."""
        self._paused = True
        if self._draft is None or self._flight is None or not len(self._flight):
            self.forward.pause()

    def resume(self) -> None:
        """The reader keeps up again."""
        self._paused = False
        self._feed()
        if not self._paused:
            self.forward.resume()

    def _feed(self) -> None:
        """Give the reader what there is and it has not got."""
        reader = self._reader
        if reader is None or self._held or self._response is None:
            return
        while self._fed < len(self._pieces) and not self._paused:
            piece = self._pieces[self._fed]
            if self._draft is None and not self._ended:
                del self._pieces[self._fed]
            else:
                self._fed += 1
            reader.on_data(piece)
        if self._ended and self._fed == len(self._pieces):
            self._reader = None
            self._pieces = []
            reader.on_end()

    # ---- the answer (the receiver of a forward)

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response."""
        if self._reader is not None:
            self._reader.on_interim(head)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """101 that nobody asked for."""
        self.forward.refuse(Failure(Kind.BAD_RESPONSE, "101 that nobody asked for"))

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The response begins: what to do with it (RFC 9111 §3, §4.3.3)."""
        wanted = self._wanted
        plan = wanted.plan
        now = time()
        response = Received(head.status, head.fields, request_time=self._asked_at, response_time=now, relay=head.relay)
        outcome = on_response(
            wanted.facts,
            response,
            self._entry,
            plan.settings,
            validated=isinstance(self._decision, Stale) and bool(self._decision.fields),
            tags=wanted.tags(),
        )
        if isinstance(outcome, Store) and (complete or outcome.draft.length <= self._most):
            self._store(outcome.draft, without_tags(head), data, complete)
        elif isinstance(outcome, Merge):
            self._merge(outcome, head)
        elif isinstance(outcome, UseStale):
            if not complete:
                self.forward.cancel()
            self._answer(self._stale(), STALE_HIT, (), "stale")
        elif isinstance(outcome, Refetch):
            drop = self._decision.drop
            self._decision = Miss(b"stale", drop, False)
            message = edited(wanted.message, self._decision, wanted.facts)
            self.forward = begin(wanted, self, message, None)
            self.start()
        else:
            assert isinstance(outcome, Nothing | Store)
            if isinstance(outcome, Store) or outcome.forget:
                self._forget_old()
            self._relay(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """More of the body."""
        self._pieces.append(data)
        if self._draft is not None:
            self._size += len(data)
            if self._size > self._most:
                self._store_no_more()
                return
        if not self._paused:
            self._feed()

    def on_end(self) -> None:
        """The body is complete."""
        draft = self._draft
        self._ended = True
        if draft is not None:
            self._put(draft, b"".join(self._pieces))
        if not self._paused:
            self._feed()

    def on_failure(self, failure: Failure) -> None:
        """No answer, or one that broke off: what is cut short is never stored."""
        wanted = self._wanted
        entry = self._entry
        if self._response is None and usable_on_failure(wanted.facts, entry, time(), wanted.plan.settings):
            self._answer(self._stale(), STALE_HIT, (), "stale")
            return
        self._draft = None
        reader, self._reader = self._reader, None
        self._end(None)
        if reader is not None:
            reader.on_failure(failure)

    # ---- what is made of it

    def _store(self, draft: Draft, head: ResponseHead, data: bytes, complete: bool) -> None:
        self._draft = draft
        self._response = head
        facts = self._wanted.facts
        asks_for_less = (
            facts.range is not None or facts.if_none_match is not None or facts.if_modified_since is not None
        )
        self._held = asks_for_less and head.status == 200
        if complete:
            self._ended = True
            if self._held:
                self._put(draft, data)
                return
            entry, stored = self._place(draft, data)
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.on_relayed(head, data, True, self._status_line(stored))
            self._end(entry)
            return
        if data:
            self._pieces.append(data)
            self._size = len(data)
        if self._reader is not None and not self._held:
            self._fed = len(self._pieces)
            self._reader.on_relayed(head, data, False, self._status_line(True))

    def _put(self, draft: Draft, body: bytes) -> None:
        """The whole is there."""
        entry, stored = self._place(draft, body)
        if self._held and self._reader is not None:
            reader, self._reader = self._reader, None
            if entry is not None:
                reader.on_entry(entry, self._status_line(stored), (), "miss")
            else:
                reader.on_failure(Failure(Kind.TRUNCATED, "the body is not as long as its head says"))
        self._end(entry)

    def _place(self, draft: Draft, body: bytes) -> tuple[Entry | None, bool]:
        """The entry (None where the response is not whole), and whether the store took it."""
        wanted = self._wanted
        entry = draft.complete(body)
        if entry is None:
            return None, False
        shelf = wanted.plan.cache.shelf
        wanted.own(entry)
        held = shelf.place(wanted.key, wanted.facts, draft.names, entry, self._epoch, self._entry)
        if held:
            self._share(entry)
        return entry, held

    def _store_no_more(self) -> None:
        """The body is too long to be stored: relay it from here on."""
        self._release()
        self._draft = None
        self._forget_old()
        self._scatter()
        reader = self._reader
        if reader is None:
            self.forward.cancel()
            self._over = True
            return
        del self._pieces[: self._fed]
        self._fed = 0
        if self._held and self._response is not None:
            self._held = False
            reader.on_relayed(self._response, b"", False, self._status_line(False))
        if self._paused:
            self.forward.pause()
        else:
            self._feed()

    def _relay(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The response is one client's alone."""
        self._release()
        self._scatter()
        reader = self._reader
        if reader is None:
            if not complete:
                self.forward.cancel()
            self._over = True
            return
        self._response = head
        self._ended = complete
        if complete:
            self._reader = None
            self._over = True
        reader.on_relayed(without_tags(head), data, complete, self._status_line(False))

    def _merge(self, outcome: Merge, head: ResponseHead) -> None:
        wanted = self._wanted
        cache = wanted.plan.cache
        entry = outcome.entry
        wanted.own(entry)
        if outcome.keep:
            if cache.shelf.place(wanted.key, wanted.facts, outcome.names, entry, self._epoch, self._entry):
                self._share(entry)
        else:
            cache.forget((entry.key,), ())
        line = forwarded(self._decision.reason, head.status, stored=outcome.keep)
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.on_entry(entry, line, outcome.own, "revalidated")
        self._end(entry if outcome.keep else None)

    def _answer(self, entry: Entry, status_line: bytes, own: tuple[bytes, ...], outcome: str) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.on_entry(entry, status_line, own, outcome)
        self._end(entry)

    def _end(self, entry: Entry | None) -> None:
        """There is a response for those who wait, or there is none."""
        self._release()
        self._over = True
        self._draft = None
        flight = self._take_flight()
        if flight is None:
            return
        if entry is None:
            flight.fail()
        elif entry is self._entry or entry.fresh_until + entry.stale_while_revalidate > self._asked_at:
            flight.land(entry)
        else:
            # RFC 9111 §4, §5.2.2.4: never fresh, so each must hear from upstream that it holds for him.
            flight.scatter(time())

    def _scatter(self) -> None:
        """Nobody else may have the answer."""
        flight = self._take_flight()
        if flight is not None:
            flight.scatter(time())

    def _take_flight(self) -> Flight[Entry] | None:
        """Who waits, if anybody can; nobody joins from here on."""
        flight, self._flight = self._flight, None
        fetches = self._wanted.plan.cache.fetches
        if flight is not None and fetches.get(flight.key) is self:
            del fetches[flight.key]
        return flight

    @property
    def _most(self) -> int:
        """The longest body that the route stores and the store can take: what is longer is not gathered."""
        plan = self._wanted.plan
        return min(plan.settings.max_body, plan.cache.store.largest)

    def _forget_old(self) -> None:
        """What was stored is no longer what there is."""
        if self._entry is not None:
            self._wanted.plan.cache.forget((self._entry.key,), ())

    def _share(self, entry: Entry) -> None:
        """``entry`` is held in memory now. For a fetch with a second level, as is the next."""

    def _release(self) -> None: ...

    def _stale(self) -> Entry:
        if self._entry is None:
            raise RuntimeError("nothing was stored")
        return self._entry

    def _status_line(self, stored: bool) -> bytes:
        status = self._response.status if self._response is not None else 0
        return forwarded(self._decision.reason, status, stored=stored)
