"""Builds the splits of routes and of parts from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import inf

from passerelle.balancing.sticky import read_cookie
from passerelle.caching.keys import SideKeyRule
from passerelle.config.models.config import Config
from passerelle.config.models.split import Override as OverrideSettings
from passerelle.config.models.split import Split
from passerelle.gateway.splitter import Override, Splitter, UserOf
from passerelle.http1.head import RequestHead
from passerelle.proxy_cache.cache import CachePlan
from passerelle.security.addresses import AddressSet, Subscribers
from passerelle.security.credentials.sessions import SessionCookies
from passerelle.security.guard import GuardedCall
from passerelle.upstream.request import CallPolicy
from passerelle.upstream.side_counts import CountedRequests, SideCounters


@dataclass(slots=True)
class SplitFactory:
    """Makes the splitters of one configuration, and keeps them by name.

    ``counters`` are those of the worker, by split and side: a reload keeps them.
    """

    config: Config
    counters: dict[str, dict[str, SideCounters]]
    splitters: dict[str, Splitter] = field(default_factory=dict)

    def splitter(self, name: str, service: str, settings: Split) -> Splitter:
        """Make the splitter ``name``, whose old side is ``service``."""
        salt = blake2b((settings.salt or f"route {name}").encode(), digest_size=16).digest()
        made = Splitter(
            settings.sides(service), salt, _user(self.config, settings), Subscribers().of, _override(settings.override)
        )
        self.splitters[name] = made
        return made

    def counted(self, name: str, policy: CallPolicy) -> CallPolicy:
        """Return ``policy`` of a side of the split ``name`` such that it counts its requests."""
        sides = self.counters.setdefault(name, {})
        counters = sides.setdefault(policy.service.name, SideCounters())
        return replace(policy, make_request=CountedRequests(policy.make_request, counters))


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


def _consumer(head: RequestHead, call: GuardedCall | None) -> bytes | None:
    return call.identity.consumer.encode() if call is not None and call.identity is not None else None


def _header(name: bytes) -> UserOf:
    return lambda head, call: head.get(name)


def _cookie(name: bytes) -> UserOf:
    return lambda head, call: read_cookie((field.value for field in head.named(b"cookie")), name)
