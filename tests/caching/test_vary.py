"""RFC 9111 §4.1: responses selected by request fields."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.entry import Entry
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.policy import Store, on_response
from passerelle.caching.request import PlainRequestView, RequestView
from passerelle.caching.variants import VariantStore
from passerelle.caching.vary import preferred_language, variant_key
from passerelle.http.messages import Fields
from tests.caching.kit import DEFAULT, NOW, fields, request, response

FRESH = "Cache-Control: max-age=60"
KEY = b"gw /r"


@pytest.fixture
def shelf() -> VariantStore:
    counter = itertools.count(1)
    return VariantStore(MemoryStore(1_000_000), salt=lambda: b"%d" % next(counter))


def put(shelf: VariantStore, asked: RequestView, *lines: str, body: bytes = b"x") -> Entry:
    outcome = on_response(asked, response(FRESH, *lines), None, DEFAULT)
    assert isinstance(outcome, Store)
    entry = outcome.draft.complete(body)
    assert entry is not None
    assert shelf.place(KEY, asked, outcome.draft.names, entry)
    return entry


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("Foo", ["1"], ["1"]),
        ("Foo", ["1, 2"], ["1", "2"]),
        ("Foo", ["1,2"], [" 1, 2 "]),
        ("Accept-Language", ["en, de"], ["de, en"]),
        ("Accept-Language", ["en, de"], ["eN, De"]),
        ("Accept-Language", ["en, de"], [" en ,   de"]),
        ("Accept-Language", ["en;q=1.0, de;q=0.500"], ["de;q=.5".replace("=.", "=0."), "en"]),
        ("Accept-Encoding", ["gzip, br"], ["br,gzip"]),
        ("Accept-Encoding", ["GZIP"], ["gzip"]),
    ],
)
def test_values_that_mean_the_same_match(name: str, one: list[str], other: list[str]) -> None:
    names = (name.lower().encode(),)
    first = variant_key(names, fields(*(f"{name}: {v}" for v in one)))
    assert first == variant_key(names, fields(*(f"{name}: {v}" for v in other)))


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("Foo", ["1"], ["2"]),
        ("Foo", ["1"], []),
        ("Foo", [""], []),
        ("Foo", ["a"], ["A"]),
        ("Foo", ["1, 2"], ["2, 1"]),
        ("Foo", ['"a, b"'], ['"a,b"']),
        ("Accept-Language", ["en;q=0.5, de"], ["en, de;q=0.5"]),
        ("Accept-Language", ["en"], ["en;q=0"]),
        ("Accept-Encoding", ["gzip"], ["gzip;q=0"]),
        ("Accept-Encoding", ["gzip"], []),
        ("Accept-Language", ["en;q=2"], ["en"]),
    ],
)
def test_values_that_differ_do_not(name: str, one: list[str], other: list[str]) -> None:
    names = (name.lower().encode(),)
    first = variant_key(names, fields(*(f"{name}: {v}" for v in one)))
    assert first != variant_key(names, fields(*(f"{name}: {v}" for v in other)))


def test_parts_cannot_be_confused() -> None:
    names = (b"a", b"b")
    keys = {
        variant_key(names, fields(*lines)) for lines in (["A: 1", "B: 2"], ["A: 1,2"], ["B: 1,2"], ["A: 2", "B: 1"])
    }
    assert len(keys) == 4


def test_long_values_are_digested() -> None:
    long = variant_key((b"foo",), fields("Foo: " + "x" * 5000))
    assert len(long) <= 96
    assert long != variant_key((b"foo",), fields("Foo: " + "x" * 4999))


@given(st.dictionaries(st.sampled_from([b"a", b"b", b"accept-language"]), st.binary(max_size=40)))
def test_keys_are_made_of_any_value(values: dict[bytes, bytes]) -> None:
    assert len(variant_key((b"a", b"accept-language", b"b"), list(values.items()))) <= 96


def test_two_variants_live_beside_each_other(shelf: VariantStore) -> None:
    put(shelf, request("Foo: 1"), "Vary: Foo", body=b"one")
    put(shelf, request("Foo: 2"), "Vary: Foo", body=b"two")
    for value, body in (("1", b"one"), ("2", b"two")):
        found = shelf.find(KEY, request(f"Foo: {value}", f"Other: {value}"))
        assert found is not None and found.body == body
    assert shelf.find(KEY, request()) is None
    assert shelf.find(KEY, request("Foo: 3")) is None


def test_invalidation_reaches_all_variants(shelf: VariantStore) -> None:
    for value in "123":
        put(shelf, request(f"Foo: {value}"), "Vary: Foo")
    shelf.store.delete(KEY)
    assert all(shelf.find(KEY, request(f"Foo: {value}")) is None for value in "123")
    put(shelf, request("Foo: 1"), "Vary: Foo", body=b"new")
    assert shelf.find(KEY, request("Foo: 2")) is None, "old variants do not come back"


def test_a_uri_that_begins_to_vary_forgets_what_it_had(shelf: VariantStore) -> None:
    put(shelf, request())
    put(shelf, request("Foo: 1"), "Vary: Foo", body=b"one")
    assert shelf.find(KEY, request()) is None
    found = shelf.find(KEY, request("Foo: 1"))
    assert found is not None and found.body == b"one"


def test_a_uri_that_varies_by_more_than_before_varies_by_all(shelf: VariantStore) -> None:
    put(shelf, request("Foo: 1"), "Vary: Foo")
    put(shelf, request("Foo: 1", "Bar: 1"), "Vary: Bar", body=b"both")
    assert shelf.find(KEY, request("Foo: 1", "Bar: 2")) is None
    found = shelf.find(KEY, request("Foo: 1", "Bar: 1"))
    assert found is not None and found.body == b"both"
    put(shelf, request("Foo: 1", "Bar: 2"), body=b"neither")
    found = shelf.find(KEY, request("Foo: 1", "Bar: 2"))
    assert found is not None and found.body == b"neither", "a response without Vary is one more variant"
    assert shelf.find(KEY, request("Foo: 9", "Bar: 9")) is None, "and not the answer to everything"
    other = b"gw /plain"
    entry = put(shelf, request())
    entry = Entry(other, 200, entry.head, b"", born=0.0, fresh_until=9.0)
    assert shelf.place(other, request(), (), entry)
    assert shelf.store.peek(other) is entry, "a URI that does not vary needs no note"


@pytest.mark.parametrize("vary", [(), (b"foo",)])
def test_what_is_older_does_not_take_the_place_of_what_came_since(shelf: VariantStore, vary: tuple[bytes, ...]) -> None:
    asked = request("Foo: 1")

    def place(born: float, known: Entry | None) -> bool:
        entry = Entry(b"", 200, b"HTTP/1.1 200 OK\r\n", b"", born=born, fresh_until=NOW + 60)
        return shelf.place(KEY, asked, vary, entry, shelf.store.epoch, known)

    assert place(NOW, None)
    first = shelf.find(KEY, asked)
    assert place(NOW + 2, first), "asked for when the first was there"
    second = shelf.find(KEY, asked)
    for known in (None, first):
        assert not place(NOW + 1, known)
        assert shelf.find(KEY, asked) is second
    assert place(NOW + 2, first), "of two of one moment the last counts"
    assert place(NOW + 3, None)
    assert place(NOW - 100, shelf.find(KEY, asked)), "a clock that goes wrong keeps nothing out"


def test_languages_are_bounded(shelf: VariantStore) -> None:
    def tag(number: int) -> str:
        return f"x{number:03}"

    for number in range(80):
        asked = request(f"Accept-Language: {tag(number)}, xx")
        put(shelf, asked, "Vary: Accept-Language", f"Content-Language: {tag(number)}")
    found = [shelf.find(KEY, request(f"Accept-Language: {tag(n)}")) is not None for n in range(80)]
    assert found == [True] * 64 + [False] * 16


def test_a_uri_that_comes_to_vary_by_too_much_is_not_stored(shelf: VariantStore) -> None:
    put(shelf, request(), "Vary: " + ", ".join(f"x{n}" for n in range(10)))
    put(shelf, request(), "Vary: " + ", ".join(f"x{n}" for n in range(10, 16)))
    outcome = on_response(request(), response(FRESH, "Vary: y"), None, DEFAULT)
    assert isinstance(outcome, Store)
    entry = outcome.draft.complete(b"")
    assert entry is not None
    assert not shelf.place(KEY, request(), outcome.draft.names, entry)


def test_the_slot_is_what_requests_for_one_response_share(shelf: VariantStore) -> None:
    assert shelf.slot(KEY, request("Foo: 1")) == (KEY, False)
    put(shelf, request("Foo: 1"), "Vary: Foo")
    one, varies = shelf.slot(KEY, request("Foo: 1"))
    assert varies and one == shelf.slot(KEY, request("Foo:  1", "Bar: 2"))[0]
    assert one != shelf.slot(KEY, request("Foo: 2"))[0]


def test_a_preferred_language_finds_the_response_in_it(shelf: VariantStore) -> None:
    put(shelf, request("Accept-Language: en, de"), "Vary: Accept-Language", "Content-Language: DE", body=b"deutsch")

    def find(value: str) -> bytes | None:
        found = shelf.find(KEY, request(f"Accept-Language: {value}"))
        return found.body if found is not None else None

    assert find("fr;q=0.5, de;q=1.0") == b"deutsch"
    assert find("de") == b"deutsch"
    assert find("de-CH, de;q=0.9") is None
    assert find("fr, de") is None, "no language is preferred to the other"
    assert find("fr, de;q=0.5") is None
    assert find("*") is None


def test_other_selecting_fields_must_still_agree(shelf: VariantStore) -> None:
    lines = ("Vary: Accept-Language, Foo", "Content-Language: de")
    put(shelf, request("Accept-Language: en, de", "Foo: 1"), *lines)
    assert shelf.find(KEY, request("Accept-Language: de", "Foo: 1")) is not None
    assert shelf.find(KEY, request("Accept-Language: de", "Foo: 2")) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [("de", b"de"), ("de, en;q=0.9", b"de"), ("de, en", None), ("*", None), ("de;q=0", None), ("", None)],
)
def test_preferred_language(value: str, expected: bytes | None) -> None:
    assert preferred_language(fields(f"Accept-Language: {value}")) == expected
    assert preferred_language([]) is None


def test_facts_remember_their_variant() -> None:
    asked = request("Foo: 1")
    assert asked.variant((b"foo",)) is asked.variant((b"foo",))


_NAMES = st.sampled_from([b"accept", b"x-trace", b"accept-language", b"host", b"user-agent", b"x-consumer-id"])


@given(st.lists(st.tuples(_NAMES, st.binary(max_size=12)), max_size=6), st.lists(_NAMES, max_size=3))
def test_requests_without_cache_headers_are_recognised_without_parsing_them(said: Fields, varied: list[bytes]) -> None:
    """The result equals that of parsing the fields, for every property of the view."""
    reads: list[Fields] = []

    def read() -> Fields:
        reads.append(said)
        return said

    silent, whole = PlainRequestView(read), RequestView(b"GET", said)
    asked = [name for name in dir(RequestView) if not name.startswith("_") and name not in ("fields", "variant")]
    assert len(asked) >= 10
    for name in asked:
        assert getattr(silent, name) == getattr(whole, name), name
    assert reads == []
    for names in ((), tuple(varied)):
        assert silent.variant(names) == whole.variant(names)
    assert silent.fields == whole.fields == said
    assert len(reads) == 1
