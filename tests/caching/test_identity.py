"""RFC 9111 §3.5: responses that depend on one client's identity are never served to another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.policy import Bypass, Fresh, Miss, Stale, Store, lookup, on_response
from passerelle.caching.request import RequestView
from passerelle.caching.settings import CacheSettings, IdentitySharing
from passerelle.caching.variants import VariantStore
from tests.caching.kit import DEFAULT, NOW, date, request, response

KEY = b"gw /d"


class Cache:
    """A store and the decisions about it; ``body`` of ``get`` is the body of the response from upstream."""

    def __init__(self, settings: CacheSettings = DEFAULT) -> None:
        self.settings = settings
        self.shelf = VariantStore(MemoryStore(1_000_000), salt=iter([b"%d" % n for n in range(1000)]).__next__)

    def get(self, asked: RequestView, *lines: str, body: bytes = b"own") -> bytes | None:
        """Return the body from the cache, or None if the request was forwarded (its response has ``lines`` and
        ``body``)."""
        entry = self.shelf.find(KEY, asked)
        decision = lookup(asked, entry, NOW, self.settings)
        if isinstance(decision, Fresh):
            assert entry is not None
            return entry.body
        if isinstance(decision, Miss | Stale):
            outcome = on_response(asked, response(*lines), entry, self.settings)
            if isinstance(outcome, Store):
                fresh = outcome.draft.complete(body)
                assert fresh is not None
                self.shelf.place(KEY, asked, outcome.draft.names, fresh)
        else:
            assert isinstance(decision, Bypass)
        return None


ALICE = request("Authorization: Bearer a")
BOB = request("Authorization: Bearer b")
ANONYMOUS = request()


def test_with_a_lifetime_alone_nothing_is_shared() -> None:
    cache = Cache()
    assert cache.get(ALICE, "Cache-Control: max-age=60") is None
    assert cache.get(ANONYMOUS, "Cache-Control: max-age=60", body=b"for all") is None
    assert cache.get(request("Cookie: a=b")) == b"for all"
    assert cache.get(ALICE) is None, "a response for anonymous clients is not served to a known one"


@pytest.mark.parametrize("directive", ["public", "s-maxage=60", "must-revalidate"])
def test_three_directives_share(directive: str) -> None:
    cache = Cache()
    assert cache.get(ALICE, f"Cache-Control: max-age=60, {directive}") is None
    for asked in (ANONYMOUS, BOB, ALICE):
        assert cache.get(asked) == b"own"


@pytest.mark.parametrize("directive", ["proxy-revalidate", "immutable", "no-transform", "stale-if-error=9"])
def test_others_do_not(directive: str) -> None:
    cache = Cache()
    assert cache.get(ALICE, f"Cache-Control: max-age=60, {directive}") is None
    assert cache.get(ANONYMOUS) is None


def test_heuristic_freshness_is_not_shared_with_credentials_or_cookies() -> None:
    modified = f"Last-Modified: {date(-10_000).decode()}"
    for asked in (ALICE, request("Cookie: sid=1")):
        cache = Cache()
        assert cache.get(asked, modified) is None
        assert cache.get(ANONYMOUS, modified) is None
        assert cache.get(ANONYMOUS) == b"own"
        assert cache.get(asked) is None


@pytest.mark.parametrize("known", [request(consumer=b"alice"), request("Cookie: s=1", consumer=b"alice")])
def test_an_identity_that_the_gateway_established_counts_as_authorization(known: RequestView) -> None:
    """Also if the credential itself was removed before the request was forwarded."""
    cache = Cache()
    assert cache.get(known, "Cache-Control: max-age=60") is None
    assert cache.get(ANONYMOUS) is None
    cache = Cache()
    assert cache.get(known, "Cache-Control: public, max-age=60") is None
    assert cache.get(ANONYMOUS) == b"own"


def test_a_route_s_lifetime_is_no_permission_to_share() -> None:
    cache = Cache(CacheSettings(ttl=60.0))
    for asked in (ALICE, request("Cookie: sid=1"), request(consumer=b"alice")):
        assert cache.get(asked) is None
        assert cache.get(asked) is None
    assert cache.get(ANONYMOUS) is None
    assert cache.get(ANONYMOUS) == b"own"
    assert cache.get(request("Cookie: sid=1")) is None


def test_the_route_may_declare_that_all_identities_see_the_same() -> None:
    cache = Cache(CacheSettings(ttl=60.0, identity=IdentitySharing.SHARED))
    assert cache.get(ALICE) is None
    for asked in (BOB, ANONYMOUS, request("Cookie: sid=1"), request(consumer=b"alice")):
        assert cache.get(asked) == b"own"


def test_each_consumer_has_entries_of_its_own() -> None:
    cache = Cache(CacheSettings(ttl=60.0, identity=IdentitySharing.CONSUMER))
    alice, bob = request("Authorization: x", consumer=b"alice"), request("Authorization: x", consumer=b"bob")
    assert cache.get(alice, body=b"alice's") is None
    assert cache.get(bob, body=b"bob's") is None
    assert cache.get(alice) == b"alice's"
    assert cache.get(bob) == b"bob's"
    assert cache.get(ANONYMOUS, body=b"anonymous") is None
    assert cache.get(ANONYMOUS) == b"anonymous"
    assert cache.get(ALICE) is None, "credentials that the gateway did not check are no consumer"
    assert cache.get(ALICE) is None
    cache.shelf.store.delete(KEY)
    for asked in (alice, bob, ANONYMOUS):
        assert cache.shelf.find(KEY, asked) is None, "one invalidation of the URI reaches all consumers"


def test_private_stays_private_to_consumers_too() -> None:
    cache = Cache(CacheSettings(identity=IdentitySharing.CONSUMER))
    alice = request(consumer=b"alice")
    assert cache.get(alice, "Cache-Control: private, max-age=60") is None
    assert cache.get(alice) is None


def test_vary_on_cookie_chooses_by_the_cookie() -> None:
    cache = Cache()
    one, two = request("Cookie: sid=1"), request("Cookie: sid=2")
    assert cache.get(one, "Cache-Control: max-age=60", "Vary: Cookie", body=b"one's") is None
    assert cache.get(two, "Cache-Control: max-age=60", "Vary: Cookie", body=b"two's") is None
    assert cache.get(one) == b"one's"
    assert cache.get(two) == b"two's"
    assert cache.get(ANONYMOUS) is None


def test_a_route_may_choose_by_a_cookie_that_the_service_does_not_name() -> None:
    cache = Cache(CacheSettings(ttl=60.0, vary_on=(b"cookie",)))
    assert cache.get(request("Cookie: sid=1"), body=b"one's") is None
    assert cache.get(request("Cookie: sid=1")) == b"one's"
    assert cache.get(request("Cookie: sid=2")) is None


_WHO = st.sampled_from(["alice", "bob", ""])
_CONTROL = st.sampled_from(
    ["max-age=60", "no-cache", "max-age=60, proxy-revalidate", "private, max-age=60", "no-store", ""]
)


@given(
    st.lists(st.tuples(_WHO, st.booleans(), _CONTROL), min_size=1, max_size=12),
    st.sampled_from([DEFAULT, CacheSettings(ttl=60.0), CacheSettings(ttl=60.0, identity=IdentitySharing.CONSUMER)]),
)
def test_no_crossing_whatever_the_order(requests: list[tuple[str, bool, str]], settings: CacheSettings) -> None:
    """Each body names its client; a request with credentials never gets a response made for another client."""
    cache = Cache(settings)
    for who, guarded, control in requests:
        lines = [] if not who or guarded else [f"Authorization: {who}"]
        asked = request(*lines, consumer=who.encode() if guarded else b"")
        body = cache.get(asked, f"Cache-Control: {control}", 'ETag: "a"', body=who.encode())
        assert body is None or body == who.encode()
