"""A request on its way to the cache, and the messages that go upstream and come back for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from passerelle.caching.entry import SPECIAL, Entry
from passerelle.caching.keys import Target
from passerelle.caching.policy import Miss, Stale
from passerelle.caching.request import Facts
from passerelle.http.messages import Fields
from passerelle.http1.server.body_writer import SLICE
from passerelle.proxy_cache.cache import CachePlan
from passerelle.upstream.interfaces import Origin, Receiver, Source
from passerelle.upstream.request_body import RequestBody


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request on its way to a cache: what it asks of whom. ``started`` is when (of ``perf_counter``).

    ``host`` is the Host's normal form without a port, ``place`` what stands for it in keys, ``authority`` the Host as
    sent, in lower case. ``owner`` is the route's plan where a hit may go the short way (see
    :mod:`passerelle.gateway.fast_hit`). ``node_key`` is what the balancer picks by, where it does. ``about`` are tags
    beside those of the plan: the paths at services that it is of. ``renews``: no stale answer will do, whatever the
    policy allows.
    """

    leg: Origin
    plan: CachePlan
    facts: Facts
    key: bytes
    message: bytes
    params: Mapping[str, bytes]
    started: float
    host: bytes = b""
    place: bytes = b""
    authority: bytes = b""
    target: Target | None = None
    owner: object = None
    node_key: bytes | None = None
    about: tuple[bytes, ...] = ()
    renews: bool = False

    def own(self, entry: Entry) -> None:
        """Let hits of ``entry`` go the short way by the plan of the route, unless its body goes out in slices."""
        entry.owner = self.owner if len(entry.body) <= SLICE else None

    def tags(self) -> tuple[bytes, ...]:
        """What its answer is purged by, beside the tags that the answer names itself."""
        return self.plan.fill_tags(self.params) + self.about


def begin(wanted: Wanted, receiver: Receiver, message: bytes, body: RequestBody | None) -> Source:
    """The forward that carries ``message`` upstream for ``wanted``, not started yet."""
    leg = wanted.leg
    forward = leg.forward(leg, receiver, wanted.facts.method, message, body, wanted.started)
    if wanted.node_key is not None:
        forward.key = wanted.node_key
    return forward


def edited(message: bytes, decision: Miss | Stale, facts: Facts) -> bytes:
    """The request for upstream without the fields that the cache answers itself, with the validators it adds."""
    fields: Fields = decision.fields if isinstance(decision, Stale) else []
    if decision.drop and facts.needs & SPECIAL:  # what is dropped are preconditions, and it has one
        line, _, section = message.partition(b"\r\n")
        kept = [f for f in section[:-4].split(b"\r\n") if f.partition(b":")[0].lower() not in decision.drop]
        message = b"\r\n".join([line, *kept, b"", b""])
    if fields:
        added = b"".join(b"%b: %b\r\n" % (_SPELLED.get(name, name), value) for name, value in fields)
        message = message[:-2] + added + b"\r\n"
    return message


_SPELLED = {b"if-none-match": b"If-None-Match", b"if-modified-since": b"If-Modified-Since"}
