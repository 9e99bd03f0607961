"""Finding and placing responses that vary: a URI's key, the note under it, the variant's key (RFC 9111 §4.1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from passerelle.caching.entry import Entry, Variants
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.request import RequestView
from passerelle.caching.vary import MAX_NAMES, preferred_language

# How many Content-Languages of one URI are known by name.
_MAX_LANGUAGES: Final = 64

_LANGUAGE: Final = b"accept-language"


def _salt() -> bytes:
    return os.urandom(6)


class VariantStore:
    """A memory store in which URIs have variants. ``salt`` makes the unique names of notes."""

    __slots__ = ("_salt", "store")

    def __init__(self, store: MemoryStore, salt: Callable[[], bytes] = _salt) -> None:
        self.store = store
        self._salt = salt

    def find(self, key: bytes, view: RequestView) -> Entry | None:
        """The entry under the URI's ``key`` that may answer this request, or None."""
        item = self.store.get(key)
        if type(item) is Entry:
            return item
        if item is None:
            return None
        assert isinstance(item, Variants)
        entry = self.store.get(variant_of(item, view.variant(item.names)))
        if entry is None and item.languages is not None:
            language = preferred_language(view.fields)
            other = item.languages.get(_language_key(item, view, language)) if language is not None else None
            entry = self.store.get(other) if other is not None else None
        return entry if isinstance(entry, Entry) else None

    def slot(self, key: bytes, view: RequestView) -> tuple[bytes, bool]:
        """The key by which the response to this request goes, as far as is known, and whether the URI varies.

        It is what requests that may share one response have in common (single flight).
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
        """Store ``entry``, chosen by the request fields ``names``, for the URI's ``key``; whether it is held.

        ``epoch`` is the store's from when the request went upstream, ``known`` what was stored for it then: with these,
        what was invalidated since is not stored, nor what is older than what came since (RFC 9111 §4: the most recent
        response counts). A URI that varied by other fields than before varies by all of them from now on.
        """
        store = self.store
        item = store.peek(key)
        note = item if isinstance(item, Variants) else None
        if not names and note is None:
            entry.key = key
            return self._put_entry(entry, epoch, known)
        if note is None or not set(names) <= set(note.names):
            union = tuple(sorted({*names, *(note.names if note is not None else ())}))
            if len(union) > MAX_NAMES:
                return False
            note = Variants(key, union, self._salt(), entry.tags)
            if not self._put(note, epoch):
                return False
        entry.key = variant_of(note, view.variant(note.names))
        if not self._put_entry(entry, epoch, known):
            return False
        language = entry.get(b"content-language") if _LANGUAGE in note.names else None
        if language is not None and b"," not in language:
            self._note_language(note, _language_key(note, view, language.lower()), entry.key)
        return True

    def _put_entry(self, entry: Entry, epoch: int | None, known: Entry | None) -> bool:
        held = self.store.peek(entry.key)
        # What was there before is replaced whatever its date, lest a service's wrong clock keep its successors out.
        late = epoch is not None and held is not known and isinstance(held, Entry) and held.born > entry.born
        return not late and self._put(entry, epoch)

    def _put(self, item: Entry | Variants, epoch: int | None) -> bool:
        return self.store.put(item) if epoch is None else self.store.put_since(item, epoch)

    def _note_language(self, note: Variants, language: bytes, variant: bytes) -> None:
        if note.languages is None:
            note.languages = {}
        elif len(note.languages) >= _MAX_LANGUAGES and language not in note.languages:
            return
        if note.languages.get(language) != variant:
            note.languages[language] = variant
            self.store.resized(note)


def variant_of(note: Variants, values: bytes) -> bytes:
    """The key of the variant with these normalised values."""
    return b"%b\x00%b\x00%b" % (note.key, note.salt, values)


def _language_key(note: Variants, view: RequestView, language: bytes) -> bytes:
    """The variant's other fields and the language: requests that agree in both get the same response."""
    return view.variant(tuple(name for name in note.names if name != _LANGUAGE)) + b"\x1d" + language
