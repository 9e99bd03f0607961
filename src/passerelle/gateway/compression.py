"""Compression of responses with a content coding that the client accepts (RFC 9110 §8.4).

A response from upstream is encoded piece by piece as it arrives. A stored response is stored once, as received, and
encoded once for each coding that a client accepts. These encoded forms belong to the entry: they count towards its size
and are evicted with it.
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from passerelle.caching.entry import EncodedForms, Entry, build_head, field_line, head_lines, status_line
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.request import RequestView
from passerelle.caching.validators import entity_tag
from passerelle.gateway.client_relay import ClientRelay
from passerelle.http import content_coding
from passerelle.http.content_coding import CodingRule
from passerelle.http.messages import Fields, end_to_end, get
from passerelle.http1.head import RequestHead, ResponseHead
from passerelle.proxy_cache.heads import AnnotatedHead

if TYPE_CHECKING:
    from passerelle.proxy_cache.interfaces import CacheClient

# The longest body that is encoded on the event loop, in bytes: up to 15 ms. Longer stored bodies go to a thread.
AT_ONCE: Final = 1024 * 1024


def coding_of(head: RequestHead, rule: CodingRule) -> bytes | None:
    """Return the content coding of the response to this request, or None."""
    return content_coding.select_coding(head.fields, rule)


def uncoded_view(head: RequestHead, method: bytes, consumer: bytes) -> RequestView:
    """Return the cache's view of ``head`` without Accept-Encoding: responses are stored without a coding."""
    fields = [field for field in end_to_end(head.fields) if field[0] != b"accept-encoding"]
    return RequestView(method, fields, has_body=head.chunked or head.content_length > 0, consumer=consumer)


def uncoded_request(message: bytes) -> bytes:
    """Return the request ``message`` with ``Accept-Encoding: identity``, so that the response suits every client."""
    lines = message[:-4].split(b"\r\n")
    kept = [line for line in lines if line[:16].lower() != b"accept-encoding:"]
    return b"\r\n".join([*kept, b"Accept-Encoding: identity", b"", b""])


class ResponseEncoder(ClientRelay):
    """Encodes a response that passes from an upstream request, or from the cache, to ``client``.

    It is the cache's client in place of ``client``, the exchange. ``head`` is the head of the client's request.
    """

    __slots__ = ("_coding", "_finish", "_head", "_method", "_piece", "_rule", "_store")

    def __init__(
        self, client: CacheClient, rule: CodingRule, method: bytes, head: RequestHead, store: MemoryStore | None
    ) -> None:
        super().__init__(client)
        self._rule = rule
        self._method = method
        self._head = head
        self._store = store
        self._coding = coding_of(head, rule)
        self._piece: Callable[[bytes], bytes] | None = None
        self._finish: Callable[[], bytes] | None = None

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Relay the head, changed where the body is encoded, and the first bytes of the body."""
        client = self._client
        fields = head.fields
        is_head = self._method == b"HEAD"
        length = len(data) if complete and not is_head else head.content_length
        unknown = is_head and length < 0 and head.status not in (204, 205)
        if head.status in (206, 304) or unknown:
            head = self._in_place_of_whole(head, fields)
        elif content_coding.is_codable(head.status, fields, length, self._rule):
            name = self._coding
            if name is None:
                head = _with_fields(head, content_coding.varied_fields(fields))
            elif not complete or is_head:
                head = _with_fields(head, content_coding.coded_fields(fields, name, -1))
                if not is_head:
                    self._piece, self._finish = content_coding.stream(name)
                    data = self._piece(data) if data else b""
            else:
                coded = content_coding.encode(name, data)
                if len(coded) < len(data):
                    data = coded
                    fields = [field for field in fields if field[0] != b"transfer-encoding"]
                    head = _with_fields(head, content_coding.coded_fields(fields, name, len(coded)))
                else:
                    head = _with_fields(head, content_coding.varied_fields(fields))
        client.on_response(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """Relay a piece of the body, encoded where the response is."""
        if self._piece is not None:
            data = self._piece(data)
        self._client.on_data(data)

    def on_end(self) -> None:
        """End the response, after the last bytes of the encoder."""
        if self._finish is not None:
            self._client.on_data(self._finish())
        self._client.on_end()

    def on_stored(self, view: RequestView, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...]) -> None:
        """Serve the stored response in its encoded form; a range is one of the unencoded body."""
        name = self._coding if view.range is None else None
        self._client.on_stored(view, encoded_form(entry, self._rule, name, self._store), status_line, added_lines)

    def _in_place_of_whole(self, head: ResponseHead, fields: Fields) -> ResponseHead:
        """Return a 304, a 206, or the head for a HEAD without a length, with what the response to a GET would have.

        That is Vary, and the weak tag of the encoded form. A 206 has the tag of the unencoded form, whose range it is.
        """
        length = -1 if head.status == 206 else head.content_length
        if not content_coding.stands_for_codable(fields, length, self._rule):
            return head
        weak = self._coding is not None and head.status != 206
        return _with_fields(head, content_coding.weak_fields(fields) if weak else content_coding.varied_fields(fields))


def encoded_form(entry: Entry, rule: CodingRule, name: bytes | None, store: MemoryStore | None) -> Entry:
    """Return ``entry`` in the coding ``name`` (None: unencoded) under ``rule``; each form is made once."""
    forms = entry.encodings
    if forms is None or forms.by != rule:
        forms = entry.encodings = EncodedForms(rule)
        if content_coding.is_codable(entry.status, entry.fields, len(entry.body), rule):
            forms.made[b""] = _form(entry, content_coding.varied_fields(entry.fields), entry.body)
        _count(entry, store)
    plain = forms.made.get(b"")
    if plain is None:
        return entry
    if name is None:
        return plain
    form = forms.made.get(name)
    if form is None:
        if len(entry.body) > AT_ONCE:
            # The response is served unencoded until a thread has encoded it.
            forms.made[name] = form = plain
            future = get_running_loop().run_in_executor(None, content_coding.encode, name, entry.body)
            future.add_done_callback(partial(_encode_in_background, entry, forms, name, store))
        else:
            form = _keep_encoding(entry, forms, name, content_coding.encode(name, entry.body), store)
    return form


def _encode_in_background(
    entry: Entry, forms: EncodedForms, name: bytes, store: MemoryStore | None, coded: Future[bytes]
) -> None:
    if not coded.cancelled() and entry.encodings is forms:
        _keep_encoding(entry, forms, name, coded.result(), store)


def _keep_encoding(entry: Entry, forms: EncodedForms, name: bytes, coded: bytes, store: MemoryStore | None) -> Entry:
    form = forms.made[b""]
    if len(coded) < len(entry.body):
        form = _form(entry, content_coding.coded_fields(entry.fields, name, len(coded)), coded)
    forms.made[name] = form
    _count(entry, store)
    return form


def _count(entry: Entry, store: MemoryStore | None) -> None:
    """Update the size of ``entry`` in ``store``, if it is stored there."""
    if store is not None and store.peek(entry.key) is entry:
        store.resized(entry)


def _form(entry: Entry, fields: Fields, body: bytes) -> Entry:
    head = build_head(status_line(entry.head), _lines(head_lines(entry.head), fields))
    tag = entity_tag(get(fields, b"etag"))
    return Entry(entry.key, entry.status, head, body, born=entry.born, fresh_until=entry.fresh_until, etag=tag)


def _with_fields(head: ResponseHead, fields: Fields) -> ResponseHead:
    """Return ``head`` with other fields; fields that are in it already keep their spelling."""
    lines = _lines(((line.name, line.value, line.line) for line in head.lines), fields)
    raw = b"\r\n".join([head.raw.partition(b"\r\n")[0], *lines, b"", b""])
    return AnnotatedHead(raw, head.added_lines) if isinstance(head, AnnotatedHead) else ResponseHead(raw)


def _lines(known: Iterable[tuple[bytes, bytes, bytes]], fields: Fields) -> list[bytes]:
    spelled = {(name, value): line for name, value, line in known}
    return [spelled.get(field) or field_line(field) for field in fields]


def encode_composed(
    status: int, head: bytes, body: bytes, rule: CodingRule, request: RequestHead
) -> tuple[bytes, bytes]:
    """Encode a composed response for the client of ``request``.

    ``head`` has neither Content-Length nor the empty line, and neither has the head returned.
    """
    known = list(head_lines(head))
    fields = [(name, value) for name, value, _ in known]
    if not content_coding.is_codable(status, fields, len(body), rule):
        return head, body
    name = coding_of(request, rule) if len(body) <= AT_ONCE else None
    coded = content_coding.encode(name, body) if name is not None else body
    if name is not None and len(coded) < len(body):
        fields = content_coding.coded_fields(fields, name, -1)
    else:
        fields, coded = content_coding.varied_fields(fields), body
    return build_head(status_line(head), _lines(known, fields)), coded
