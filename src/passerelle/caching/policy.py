"""The cache's decisions (RFC 9111 §4): what to do with a request, and what with the response to it.

Everything here is a pure function of its arguments; ``now`` is in seconds since the epoch. A driver looks an entry up,
asks :func:`lookup`, does what the answer says, and asks :func:`on_response` or :func:`usable_on_failure` when upstream
has answered or has not.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from passerelle.caching.directives import MAX_SECONDS, NONE, Directives
from passerelle.caching.entry import IDENTITY, NEVER, Entry
from passerelle.caching.freshening import freshen, matches, matches_head
from passerelle.caching.keys import Target, same_origin_target
from passerelle.caching.request import Facts
from passerelle.caching.response import Received
from passerelle.caching.settings import Settings
from passerelle.caching.storing import ONE_REQUEST, Draft, make_draft, read_terms
from passerelle.http.messages import SAFE_METHODS, Fields

_CONDITIONS: Final = frozenset({b"if-none-match", b"if-modified-since"})
_PRECONDITIONS: Final = _CONDITIONS | {b"range", b"if-range"}
_KEEP: Final[frozenset[bytes]] = frozenset()

# Answers that say nothing of what others get: those about one request, its faults, or its credentials.
_NO_WORD_ON_THE_URI: Final = ONE_REQUEST | {400, 401, 407}

# RFC 5861 §4: the answers that are errors to stale-if-error.
ERRORS: Final = frozenset({500, 502, 503, 504})


class Fresh(NamedTuple):
    """Answer from the entry. ``stale``: it is not fresh, yet allowed. ``refresh``: revalidate in the background."""

    stale: bool = False
    refresh: bool = False


# A fresh entry and a request that asks for nothing special: `answers.wire` is the whole answer.
HIT: Final = Fresh()


class Stale(NamedTuple):
    """Forward with the validators ``fields`` added and the client's fields ``drop`` left out (RFC 9111 §4.3.1).

    ``fields`` may be empty: the entry has no validator and is only good for when upstream fails. ``share`` as in
    :class:`Miss`.
    """

    fields: Fields
    drop: frozenset[bytes]
    reason: bytes
    share: bool = True


class Miss(NamedTuple):
    """Forward without the client's fields ``drop``. ``share``: one request upstream may answer several clients."""

    reason: bytes
    drop: frozenset[bytes]
    share: bool


class Bypass(NamedTuple):
    """Forward as it is and store nothing of a GET or HEAD; an unsafe method may still invalidate."""

    reason: bytes


class Refuse(NamedTuple):
    """Answer 504: the client wants a stored response or none (RFC 9111 §5.2.1.7)."""


Decision = Fresh | Stale | Miss | Bypass | Refuse

_FRESH: Final = Fresh()
_STALE_FRESH: Final = Fresh(stale=True)
_REFRESH: Final = Fresh(stale=True, refresh=True)
_METHOD: Final = Bypass(b"method")
_REQUEST: Final = Bypass(b"request")
_NOT_YOURS: Final = Bypass(b"bypass")
_REFUSE: Final = Refuse()
_SHARED_MISS: Final = Miss(b"uri-miss", _CONDITIONS, True)
_OWN_MISS: Final = Miss(b"uri-miss", _KEEP, False)


def lookup(facts: Facts, entry: Entry | None, now: float, settings: Settings) -> Decision:
    """What to do with a request for which ``entry`` is stored (RFC 9111 §4); the very object HIT on the short way."""
    if entry is not None and now < entry.fresh_until and not facts.needs & entry.refuses:
        return HIT
    return _consider(facts, entry, now, settings)


def _consider(facts: Facts, entry: Entry | None, now: float, settings: Settings) -> Decision:
    if facts.method not in (b"GET", b"HEAD"):
        return _METHOD
    directives = facts.directives if settings.obey_client_directives else NONE
    # RFC 9111 §4.3.2: conditions for origins are not a cache's to evaluate; a GET's content has no meaning to one.
    if facts.has_body or facts.origin_only or b"no-store" in directives:
        return _REQUEST
    only_if_cached = b"only-if-cached" in directives
    if entry is None:
        if only_if_cached:
            return _REFUSE
        if facts.method == b"HEAD" or facts.range is not None:
            return _OWN_MISS
        return _SHARED_MISS if b"no-cache" not in directives else _SHARED_MISS._replace(share=False)
    if facts.needs & entry.refuses & IDENTITY:
        return _REFUSE if only_if_cached else _NOT_YOURS
    asked = _acceptable(entry, directives, now)
    if asked is not None:
        return asked
    if only_if_cached:
        return _REFUSE
    reason = b"request" if now < entry.fresh_until else b"stale"
    if facts.method == b"HEAD":
        return Miss(reason, _KEEP, False)
    # Who asks for an answer of now does not wait for one that was asked for before.
    return revalidation(entry, reason, reason == b"stale" and b"no-cache" not in directives)


def _acceptable(entry: Entry, directives: Directives, now: float) -> Fresh | None:
    """How ``entry`` may answer without asking upstream, or None (RFC 9111 §4.2.4, §5.2.1; RFC 5861 §3)."""
    if b"no-cache" in directives or entry.fresh_until == NEVER:
        return None
    max_age = directives.seconds(b"max-age")
    if max_age is not None and now - entry.born > max_age:
        return None
    remaining = entry.fresh_until - now
    min_fresh = directives.seconds(b"min-fresh", MAX_SECONDS)
    if min_fresh is not None and remaining < min_fresh:
        return None
    if remaining > 0:
        return _FRESH
    if -remaining < entry.stale_while_revalidate:
        return _REFRESH
    if not entry.strict and b"max-stale" in directives:
        # Without an argument any staleness will do.
        limit = MAX_SECONDS if directives.members[b"max-stale"] == [None] else directives.seconds(b"max-stale") or 0
        if -remaining <= limit:
            return _STALE_FRESH
    return None


def revalidation(entry: Entry, reason: bytes = b"stale", share: bool = True) -> Stale:
    """Ask upstream whether ``entry`` still holds, whatever the client asked."""
    return Stale(validators(entry), _PRECONDITIONS, reason, share)


def validators(entry: Entry) -> Fields:
    """The request fields that validate ``entry`` (RFC 9111 §4.3.1), both kinds where it has both."""
    fields: Fields = []
    if entry.etag is not None:
        fields.append((b"if-none-match", entry.etag))
    modified = entry.get(b"last-modified")
    if modified is not None:
        fields.append((b"if-modified-since", modified))
    return fields


class Store(NamedTuple):
    """Relay the response; put ``draft`` into the store when its body is complete."""

    draft: Draft


class Merge(NamedTuple):
    """Answer from ``entry``, the updated one. Put it into the store if ``keep``, else take the old one out.

    ``own`` are field lines for this client alone, ``names`` the request fields that choose the entry from now on.
    """

    entry: Entry
    keep: bool
    own: tuple[bytes, ...]
    names: tuple[bytes, ...]


class Invalidate(NamedTuple):
    """Relay the response; take everything stored for ``targets`` out first (RFC 9111 §4.4), then store ``draft``."""

    targets: tuple[Target, ...]
    draft: Draft | None


class UseStale(NamedTuple):
    """Drop the response and answer from the stale entry (RFC 5861 §4)."""


class Refetch(NamedTuple):
    """The 304 is about another response than the stored one: ask again without validators (RFC 9111 §4.3.4)."""


class Nothing(NamedTuple):
    """Relay the response and store nothing. ``forget``: it supersedes the stored one, which goes."""

    reason: str
    forget: bool = False


Outcome = Store | Merge | Invalidate | UseStale | Refetch | Nothing

_USE_STALE: Final = UseStale()
_REFETCH: Final = Refetch()


def on_response(
    facts: Facts,
    response: Received,
    entry: Entry | None,
    settings: Settings,
    *,
    validated: bool = False,
    authority: bytes = b"",
    believed: bytes = b"",
    target: Target | None = None,
    tags: tuple[bytes, ...] = (),
) -> Outcome:
    """What to do with a response from upstream. Never called with one that the gateway made itself.

    ``entry`` is what was stored for the request, if anything; ``validated`` tells that the request went out with its
    validators. ``authority`` (the Host field, lower case) and ``target`` are the request's own URI; ``believed`` is the
    host that the client has asked by a trusted proxy's word, if there is one. ``tags`` are the route's.
    """
    if facts.method not in SAFE_METHODS:
        hosts = (authority, believed) if believed else (authority,)
        return _on_unsafe(facts, response, settings, hosts, target, tags)
    if facts.method == b"HEAD":
        return _on_head(facts, response, entry, settings)
    if facts.method != b"GET":
        return Nothing("method")
    if response.status == 304:
        if entry is None or not validated:
            return Nothing("conditional")
        if not matches(entry, response):
            return _REFETCH
        return Merge(*freshen(entry, response, facts, settings))
    if entry is not None and response.status in ERRORS and _within_error_window(entry, response.response_time):
        return _USE_STALE
    if entry is not None and entry.status != response.status and response.status in _NO_WORD_ON_THE_URI:
        return Nothing("status")
    draft = make_draft(facts, response, settings, tags)
    if isinstance(draft, Draft):
        return Store(draft)
    forget = entry is not None and response.status < 500 and response.status not in _NO_WORD_ON_THE_URI
    return Nothing(draft, forget)


def _within_error_window(entry: Entry, now: float) -> bool:
    return entry.fresh_until != NEVER and now < entry.fresh_until + entry.stale_if_error


def _on_head(facts: Facts, response: Received, entry: Entry | None, settings: Settings) -> Outcome:
    if entry is None or response.status != 200:
        return Nothing("method")
    if not matches_head(entry, response):
        return Nothing("method", forget=True)
    return Merge(*freshen(entry, response, facts, settings))


def _on_unsafe(
    facts: Facts,
    response: Received,
    settings: Settings,
    hosts: tuple[bytes, ...],
    target: Target | None,
    tags: tuple[bytes, ...],
) -> Outcome:
    """RFC 9111 §4.4: a non-error answer to an unsafe or unknown method invalidates; an error changes nothing."""
    if target is None or not 200 <= response.status < 400:
        return Nothing("method")
    targets = {target: None}
    draft: Draft | None = None
    for name in (b"location", b"content-location"):
        reference = response.get(name)
        if reference is None:
            continue
        read = (same_origin_target(reference, host, target.path, target.query) for host in hosts)
        other = next((found for found in read if found is not None), None)
        if other is not None:
            targets[other] = None
            if name == b"content-location" and other == target and facts.method == b"POST":
                draft = _post_draft(facts, response, settings, tags)
    return Invalidate(tuple(targets), draft)


def _post_draft(facts: Facts, response: Received, settings: Settings, tags: tuple[bytes, ...]) -> Draft | None:
    """RFC 9110 §9.3.3: a POST's answer about its own URI, with explicit freshness, may answer a later GET."""
    terms = read_terms(response, settings)
    if response.status != 200 or not terms.lifetime.explicit:
        return None
    draft = make_draft(facts, response, settings, tags, terms)
    return draft if isinstance(draft, Draft) else None


def usable_on_failure(facts: Facts, entry: Entry | None, now: float, settings: Settings) -> bool:
    """Whether ``entry`` may answer when upstream gave no answer: the cache is disconnected (RFC 9111 §4.2.4)."""
    if entry is None or entry.fresh_until == NEVER:
        return False
    if settings.obey_client_directives and b"no-cache" in facts.directives:
        return False
    window = entry.stale_if_error if entry.strict else max(entry.stale_if_error, settings.stale_if_disconnected)
    return now < entry.fresh_until + window
