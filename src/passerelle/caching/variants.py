"""Find and store responses that vary: the URI's key, its variants record, and the variants' keys (RFC 9111 §4.1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from passerelle.caching.entry import Entry, StoredItem, Variants
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.request import RequestView
from passerelle.caching.vary import MAX_NAMES, preferred_language

# Maximum number of Content-Languages remembered per URI.
_MAX_LANGUAGES: Final = 64

_LANGUAGE: Final = b"accept-language"


def _salt() -> bytes:
    return os.urandom(6)


class VariantStore:
    """Memory store in which URIs have variants. ``salt`` generates a unique salt for each variants record."""

    __slots__ = ("_salt", "store")

    def __init__(self, store: MemoryStore, salt: Callable[[], bytes] = _salt) -> None:
        self.store = store
        self._salt = salt

    def find(self, key: bytes, view: RequestView) -> Entry | None:
        """Return the entry under the URI's ``key`` that may serve this request, or None."""
        item = self.store.get(key)
        if type(item) is Entry:
            return item
        return self.select(item, view) if item is not None else None

    def select(self, item: StoredItem, view: RequestView) -> Entry | None:
        """Return the entry that may serve this request: ``item``, found under its URI's key, or one of its variants."""
        if isinstance(item, Entry):
            return item
        assert isinstance(item, Variants)
        entry = self.store.get(variant_of(item, view.variant(item.names)))
        if entry is None and item.languages is not None:
            language = preferred_language(view.fields)
            other = item.languages.get(_language_key(item, view, language)) if language is not None else None
            entry = self.store.get(other) if other is not None else None
        return entry if isinstance(entry, Entry) else None

    def slot(self, key: bytes, view: RequestView) -> tuple[bytes, bool]:
        """Return the key for the response to this request, as far as known, and whether the URI varies.

        Requests with the same key may share one response (single flight).
        """
        item = self.store.peek(key)
        if isinstance(item, Variants):
            return variant_of(item, view.variant(item.names)), True
        return key, False

    def place(
        self,
        key: bytes,
        view: RequestView,
        names: tuple[bytes, ...],
        entry: Entry,
        epoch: int | None = None,
        known: Entry | None = None,
    ) -> bool:
        """Store ``entry``, selected by the request fields ``names``, for the URI's ``key``; return whether it is held.

        ``epoch`` is the store's epoch when the request was forwarded, ``known`` the entry stored for the request then.
        With both, a response is not stored if its URI was invalidated since, or if a more recent response has been
        stored since (RFC 9111 §4). If a URI varied by other fields before, it varies by the union of the fields from
        now on.
        """
        store = self.store
        item = store.peek(key)
        record = item if isinstance(item, Variants) else None
        if not names and record is None:
            entry.key = key
            return self._put_entry(entry, epoch, known)
        if record is None or not set(names) <= set(record.names):
            union = tuple(sorted({*names, *(record.names if record is not None else ())}))
            if len(union) > MAX_NAMES:
                return False
            record = Variants(key, union, self._salt(), entry.tags)
            if not self._put(record, epoch):
                return False
        entry.key = variant_of(record, view.variant(record.names))
        if not self._put_entry(entry, epoch, known):
            return False
        language = entry.get(b"content-language") if _LANGUAGE in record.names else None
        if language is not None and b"," not in language:
            self._record_language(record, _language_key(record, view, language.lower()), entry.key)
        return True

    def _put_entry(self, entry: Entry, epoch: int | None, known: Entry | None) -> bool:
        held = self.store.peek(entry.key)
        # The previous entry is replaced whatever its date; otherwise a service's wrong clock could block newer
        # responses.
        late = epoch is not None and held is not known and isinstance(held, Entry) and held.born > entry.born
        return not late and self._put(entry, epoch)

    def _put(self, item: Entry | Variants, epoch: int | None) -> bool:
        return self.store.put(item) if epoch is None else self.store.put_since(item, epoch)

    def _record_language(self, record: Variants, language: bytes, variant: bytes) -> None:
        if record.languages is None:
            record.languages = {}
        elif len(record.languages) >= _MAX_LANGUAGES and language not in record.languages:
            return
        if record.languages.get(language) != variant:
            record.languages[language] = variant
            self.store.resized(record)


def variant_of(record: Variants, values: bytes) -> bytes:
    """Return the key of the variant with these normalised values."""
    return b"%b\x00%b\x00%b" % (record.key, record.salt, values)


def _language_key(record: Variants, view: RequestView, language: bytes) -> bytes:
    """Return a key of the other fields and the language: requests that agree in both get the same response."""
    return view.variant(tuple(name for name in record.names if name != _LANGUAGE)) + b"\x1d" + language
