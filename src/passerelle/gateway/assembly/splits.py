"""Builds the splits of routes and of parts from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import inf
from typing import NamedTuple

from passerelle.balancing.sticky import read_cookie
from passerelle.caching.keys import SideKeyRule
from passerelle.config.models.config import Config
from passerelle.config.models.split import Override as OverrideSettings
from passerelle.config.models.split import Split
from passerelle.gateway.splitter import Override, Splitter, UserOf
from passerelle.proxy_cache.cache import CachePlan
from passerelle.security.addresses import AddressSet, Subscribers
from passerelle.security.credentials.sessions import SessionCookies
from passerelle.security.guard import FieldSource, GuardedCall
from passerelle.upstream.request import CallPolicy
from passerelle.upstream.side_counts import (
    CountedRequests,
    SeenUsers,
    SideCounters,
    UserIn,
    address_in,
    consumer_in,
    cookie_in,
    header_in,
)


class SplitCounts(NamedTuple):
    """What one worker counts of a split."""

    seen: SeenUsers
    sides: dict[str, SideCounters]


@dataclass(slots=True)
class SplitFactory:
    """Makes the splitters of one configuration, and keeps them by name.

    ``counts`` are those of the worker by split: a reload keeps them.
    """

    config: Config
    counts: dict[str, SplitCounts]
    splitters: dict[str, Splitter] = field(default_factory=dict)

    def splitter(self, name: str, service: str, settings: Split) -> Splitter:
        """Make the splitter ``name``, whose old side is ``service``."""
        salt = blake2b((settings.salt or f"route {name}").encode(), digest_size=16).digest()
        made = Splitter(
            settings.sides(service), salt, _user(self.config, settings), Subscribers().of, _override(settings.override)
        )
        self.splitters[name] = made
        return made

    def counted(self, name: str, settings: Split, policy: CallPolicy) -> CallPolicy:
        """Return ``policy`` of a side of the split ``name`` such that it counts its requests."""
        counts = self.counts.setdefault(name, SplitCounts(SeenUsers(), {}))
        counters = counts.sides.setdefault(policy.service.name, SideCounters(counts.seen))
        return replace(policy, make_request=CountedRequests(policy.make_request, counters, _user_in(settings)))


def apart(cache: CachePlan | None, side: str, sides: Sequence[str]) -> CachePlan | None:
    """Return the plan of ``side`` for the cache of a route, whose entries the others of ``sides`` do not share."""
    if cache is None:
        return None
    key = SideKeyRule.of(cache.settings.key, side.encode("ascii"), tuple(name.encode("ascii") for name in sides))
    return replace(cache, settings=replace(cache.settings, key=key), whole_uri=False)


def slow_after(seconds: float | None) -> float:
    """Return the threshold of slow requests in the form of :class:`SideCounters`."""
    return inf if seconds is None else seconds


def _override(settings: OverrideSettings | None) -> Override | None:
    if settings is None:
        return None
    return Override(
        settings.header.lower().encode("ascii") if settings.header is not None else None,
        settings.cookie.encode("ascii") if settings.cookie is not None else None,
        frozenset(settings.roles),
        AddressSet(settings.clients),
    )


def _user(config: Config, settings: Split) -> UserOf | None:
    """Return what identifies users; None for their addresses."""
    by = settings.by
    if by.source == "consumer":
        return _consumer
    if by.source == "header":
        return _header(by.name.encode("ascii"))
    if by.source == "cookie":
        return _cookie(by.name.encode("ascii"))
    if by.source == "session" and config.sessions is not None:
        return _cookie(SessionCookies.named(config.sessions.cookie, secure=not config.sessions.insecure).name)
    return None


def _user_in(settings: Split) -> UserIn:
    """Return what finds the user in a request to a service, where no client is known any more."""
    by = settings.by
    if by.source == "header":
        return header_in(by.name.encode("ascii"))
    if by.source == "cookie":
        return cookie_in(by.name.encode("ascii"))
    # Services receive no session cookie, but the user of the session.
    return address_in if by.source == "address" else consumer_in


def _consumer(head: FieldSource, call: GuardedCall | None) -> bytes | None:
    return call.identity.consumer.encode() if call is not None and call.identity is not None else None


def _header(name: bytes) -> UserOf:
    return lambda head, call: head.get(name)


def _cookie(name: bytes) -> UserOf:
    return lambda head, call: read_cookie((field.value for field in head.named(b"cookie")), name)
