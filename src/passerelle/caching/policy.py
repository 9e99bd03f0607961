"""Caching decisions (RFC 9111 §4) for requests and for the responses to them.

All functions are pure; ``now`` is in seconds since the epoch. The caller finds an entry, calls :func:`lookup`, acts on
the decision, and calls :func:`on_response` after a response from upstream or :func:`usable_on_failure` if there is
none.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from passerelle.caching.directives import MAX_SECONDS, NONE, Directives
from passerelle.caching.entry import IDENTITY, NEVER, Entry
from passerelle.caching.freshening import matches, matches_head, update_entry
from passerelle.caching.keys import TargetUri, same_origin_target
from passerelle.caching.request import RequestView
from passerelle.caching.response import OriginResponse
from passerelle.caching.settings import CacheSettings
from passerelle.caching.storing import ONE_REQUEST, EntryDraft, make_draft, read_terms
from passerelle.http.messages import SAFE_METHODS, Fields

_CONDITIONS: Final = frozenset({b"if-none-match", b"if-modified-since"})
_PRECONDITIONS: Final = _CONDITIONS | {b"range", b"if-range"}
_KEEP: Final[frozenset[bytes]] = frozenset()

# Statuses that do not describe the resource: they concern one request, its errors, or its credentials.
_NO_WORD_ON_THE_URI: Final = ONE_REQUEST | {400, 401, 407}

# RFC 5861 §4: statuses that count as errors for stale-if-error.
ERRORS: Final = frozenset({500, 502, 503, 504})


class Fresh(NamedTuple):
    """Serve the entry. ``stale``: the entry is stale, but serving it is allowed. ``refresh``: revalidate in the
    background."""

    stale: bool = False
    refresh: bool = False


# A fresh entry and a request without special needs: `serving.fresh_hit_bytes` is the complete response.
HIT: Final = Fresh()


class Stale(NamedTuple):
    """Forward with the validators ``fields`` added and the client's fields ``drop`` removed (RFC 9111 §4.3.1).

    ``fields`` may be empty: such an entry has no validator and is only used if upstream fails. For ``share`` see
    :class:`Miss`.
    """

    fields: Fields
    drop: frozenset[bytes]
    reason: bytes
    share: bool = True


class Miss(NamedTuple):
    """Forward without the client's fields ``drop``. ``share``: one upstream request may serve several clients."""

    reason: bytes
    drop: frozenset[bytes]
    share: bool


class Bypass(NamedTuple):
    """Forward unchanged; do not store the response to a GET or HEAD. An unsafe method may still invalidate."""

    reason: bytes


class Refuse(NamedTuple):
    """Respond with 504: the client accepts only a stored response (RFC 9111 §5.2.1.7)."""


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


def lookup(view: RequestView, entry: Entry | None, now: float, settings: CacheSettings) -> Decision:
    """Decide what to do with a request for which ``entry`` is stored (RFC 9111 §4); return the object HIT on the fast
    path."""
    if entry is not None and now < entry.fresh_until and not view.needs & entry.needs_excluded:
        return HIT
    return _consider(view, entry, now, settings)


def _consider(view: RequestView, entry: Entry | None, now: float, settings: CacheSettings) -> Decision:
    if view.method not in (b"GET", b"HEAD"):
        return _METHOD
    directives = view.directives if settings.obey_client_directives else NONE
    # RFC 9111 §4.3.2: a cache does not evaluate conditions meant for the origin. Content in a GET has no meaning for a
    # cache.
    if view.has_body or view.origin_only or b"no-store" in directives:
        return _REQUEST
    only_if_cached = b"only-if-cached" in directives
    if entry is None:
        if only_if_cached:
            return _REFUSE
        if view.method == b"HEAD" or view.range is not None:
            return _OWN_MISS
        return _SHARED_MISS if b"no-cache" not in directives else _SHARED_MISS._replace(share=False)
    if view.needs & entry.needs_excluded & IDENTITY:
        return _REFUSE if only_if_cached else _NOT_YOURS
    served = _acceptable(entry, directives, now)
    if served is not None:
        return served
    if only_if_cached:
        return _REFUSE
    reason = b"request" if now < entry.fresh_until else b"stale"
    if view.method == b"HEAD":
        return Miss(reason, _KEEP, False)
    # A client that requires an up-to-date response must not share one that was requested earlier.
    return revalidation(entry, reason, reason == b"stale" and b"no-cache" not in directives)


def _acceptable(entry: Entry, directives: Directives, now: float) -> Fresh | None:
    """Decide whether ``entry`` may be served without contacting upstream (RFC 9111 §4.2.4, §5.2.1; RFC 5861 §3)."""
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
        # max-stale without an argument accepts any staleness.
        limit = MAX_SECONDS if directives.members[b"max-stale"] == [None] else directives.seconds(b"max-stale") or 0
        if -remaining <= limit:
            return _STALE_FRESH
    return None


def revalidation(entry: Entry, reason: bytes = b"stale", share: bool = True) -> Stale:
    """Revalidate ``entry`` upstream, whatever conditions the client sent."""
    return Stale(validators(entry), _PRECONDITIONS, reason, share)


def validators(entry: Entry) -> Fields:
    """Return the request fields that validate ``entry`` (RFC 9111 §4.3.1): both kinds if the entry has both."""
    fields: Fields = []
    if entry.etag is not None:
        fields.append((b"if-none-match", entry.etag))
    modified = entry.get(b"last-modified")
    if modified is not None:
        fields.append((b"if-modified-since", modified))
    return fields


class Store(NamedTuple):
    """Forward the response to the client; store ``draft`` once its body is complete."""

    draft: EntryDraft


class Merge(NamedTuple):
    """Serve ``entry``, which has been updated. If ``keep``, store it; otherwise delete the old entry.

    ``own`` are field lines for this client alone; ``names`` are the request fields that select the entry from now on.
    """

    entry: Entry
    keep: bool
    own: tuple[bytes, ...]
    names: tuple[bytes, ...]


class Invalidate(NamedTuple):
    """Forward the response to the client, after deleting everything stored for ``targets`` (RFC 9111 §4.4); store
    ``draft``."""

    targets: tuple[TargetUri, ...]
    draft: EntryDraft | None


class UseStale(NamedTuple):
    """Discard the response and serve the stale entry (RFC 5861 §4)."""


class Refetch(NamedTuple):
    """The 304 does not select the stored response: repeat the request without validators (RFC 9111 §4.3.4)."""


class RelayOnly(NamedTuple):
    """Forward the response to the client and store nothing. ``forget``: the response supersedes the entry, which is
    deleted."""

    reason: str
    forget: bool = False


Outcome = Store | Merge | Invalidate | UseStale | Refetch | RelayOnly

_USE_STALE: Final = UseStale()
_REFETCH: Final = Refetch()


def on_response(
    view: RequestView,
    response: OriginResponse,
    entry: Entry | None,
    settings: CacheSettings,
    *,
    validated: bool = False,
    authority: bytes = b"",
    believed: bytes = b"",
    target: TargetUri | None = None,
    tags: tuple[bytes, ...] = (),
) -> Outcome:
    """Decide what to do with a response from upstream; not for responses generated by the gateway.

    ``entry`` is the entry found for the request, if any; ``validated`` is true if the request was forwarded with the
    entry's validators. ``authority`` (the Host field, lower case) and ``target`` are the request's own URI.
    ``believed`` is the host that a trusted proxy reports as requested by the client, or empty. ``tags`` are the route's
    tags.
    """
    if view.method not in SAFE_METHODS:
        hosts = (authority, believed) if believed else (authority,)
        return _on_unsafe(view, response, settings, hosts, target, tags)
    if view.method == b"HEAD":
        return _on_head(view, response, entry, settings)
    if view.method != b"GET":
        return RelayOnly("method")
    if response.status == 304:
        if entry is None or not validated:
            return RelayOnly("conditional")
        if not matches(entry, response):
            return _REFETCH
        return Merge(*update_entry(entry, response, view, settings))
    if entry is not None and response.status in ERRORS and _within_error_window(entry, response.response_time):
        return _USE_STALE
    if entry is not None and entry.status != response.status and response.status in _NO_WORD_ON_THE_URI:
        return RelayOnly("status")
    draft = make_draft(view, response, settings, tags)
    if isinstance(draft, EntryDraft):
        return Store(draft)
    forget = entry is not None and response.status < 500 and response.status not in _NO_WORD_ON_THE_URI
    return RelayOnly(draft, forget)


def _within_error_window(entry: Entry, now: float) -> bool:
    return entry.fresh_until != NEVER and now < entry.fresh_until + entry.stale_if_error


def _on_head(view: RequestView, response: OriginResponse, entry: Entry | None, settings: CacheSettings) -> Outcome:
    if entry is None or response.status != 200:
        return RelayOnly("method")
    if not matches_head(entry, response):
        return RelayOnly("method", forget=True)
    return Merge(*update_entry(entry, response, view, settings))


def _on_unsafe(
    view: RequestView,
    response: OriginResponse,
    settings: CacheSettings,
    hosts: tuple[bytes, ...],
    target: TargetUri | None,
    tags: tuple[bytes, ...],
) -> Outcome:
    """Invalidate after a non-error response to an unsafe or unknown method; ignore errors (RFC 9111 §4.4)."""
    if target is None or not 200 <= response.status < 400:
        return RelayOnly("method")
    targets = {target: None}
    draft: EntryDraft | None = None
    for name in (b"location", b"content-location"):
        reference = response.get(name)
        if reference is None:
            continue
        read = (same_origin_target(reference, host, target.path, target.query) for host in hosts)
        other = next((found for found in read if found is not None), None)
        if other is not None:
            targets[other] = None
            if name == b"content-location" and other == target and view.method == b"POST":
                draft = _post_draft(view, response, settings, tags)
    return Invalidate(tuple(targets), draft)


def _post_draft(
    view: RequestView, response: OriginResponse, settings: CacheSettings, tags: tuple[bytes, ...]
) -> EntryDraft | None:
    """Store the response to a POST for later GETs if it names its own URI and has an explicit lifetime (RFC 9110
    §9.3.3)."""
    terms = read_terms(response, settings)
    if response.status != 200 or not terms.lifetime.explicit:
        return None
    draft = make_draft(view, response, settings, tags, terms)
    return draft if isinstance(draft, EntryDraft) else None


def usable_on_failure(view: RequestView, entry: Entry | None, now: float, settings: CacheSettings) -> bool:
    """Return whether ``entry`` may be served without a response from upstream: "disconnected" (RFC 9111 §4.2.4)."""
    if entry is None or entry.fresh_until == NEVER:
        return False
    if settings.obey_client_directives and b"no-cache" in view.directives:
        return False
    window = entry.stale_if_error if entry.strict else max(entry.stale_if_error, settings.stale_if_disconnected)
    return now < entry.fresh_until + window
