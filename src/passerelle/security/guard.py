"""Interface of guards.

A guard is a callable that is created when a route's plan is built. It inspects a request before any part of the request
is forwarded. It either admits the request (returns None), responds itself (returns a
:class:`~passerelle.http.messages.Response`), refuses (raises a :class:`~passerelle.errors.Failure`), or has to wait
(returns a :class:`PendingResult`), in which case it is called once more afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from passerelle.errors import Failure, Kind
from passerelle.http.messages import Fields, Response
from passerelle.security.identity import Identity


class FieldLike(Protocol):
    """One field line: its name in lower case, its value, and the line as received, without CRLF."""

    @property
    def name(self) -> bytes:
        """The name in lower case."""

    @property
    def value(self) -> bytes:
        """The value without surrounding whitespace."""

    @property
    def line(self) -> bytes:
        """The line as received."""


class FieldSource(Protocol):
    """The header fields of a request, in the order received."""

    @property
    def lines(self) -> Sequence[FieldLike]:
        """All field lines."""

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of the field ``name`` (lower case), or None."""

    def named(self, name: bytes) -> Sequence[FieldLike]:
        """Return the lines of the field ``name`` (lower case)."""


class PendingResult(Protocol):
    """Pending operation that a guard waits for."""

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, on success or failure and within a bounded time; never before this method returns."""


class GuardedCall:
    """Request as seen by guards, and the results that guards leave for later stages.

    ``address`` is the client's address, from the trusted part of the chain. ``response_fields`` collects field lines
    (with CRLF) for the response, ``upstream_fields`` those for the service. ``hidden_lines`` are client lines that are
    not forwarded; ``rewritten_lines`` maps client lines to the form in which they are forwarded. ``certificate`` is the
    certificate verified by TLS, in the form of :meth:`ssl.SSLSocket.getpeercert`. ``pending`` belongs to the guard that
    returned a :class:`PendingResult` until that guard clears it. ``peer`` and ``scheme`` are the connection's.
    ``variant_identity`` stands for further information passed to services that may make their responses specific to
    this client, in addition to ``identity``. ``forwarded_query``, with its question mark, replaces the query of the
    forwarded request; None keeps it.
    """

    __slots__ = (
        "address",
        "certificate",
        "forwarded_query",
        "head",
        "hidden_lines",
        "identity",
        "method",
        "path",
        "peer",
        "pending",
        "query",
        "request_id",
        "response_fields",
        "rewritten_lines",
        "scheme",
        "upstream_fields",
        "variant_identity",
    )

    trace_lines = b""
    """Field lines that continue the trace in requests of guards to services."""

    def __init__(
        self,
        method: bytes,
        path: bytes,
        address: bytes,
        head: FieldSource,
        certificate: Mapping[str, Any] | None = None,
        query: bytes = b"",
        request_id: bytes = b"",
        peer: bytes = b"",
        scheme: bytes = b"http",
    ) -> None:
        self.method = method
        self.path = path
        self.address = address
        self.head = head
        self.certificate = certificate
        self.query = query
        self.request_id = request_id
        self.peer = peer
        self.scheme = scheme
        self.response_fields = b""
        self.upstream_fields = b""
        self.hidden_lines: Sequence[bytes] = ()
        self.rewritten_lines: Sequence[tuple[bytes, bytes]] = ()
        self.identity: Identity | None = None
        self.pending: object = None
        self.variant_identity = b""
        self.forwarded_query: bytes | None = None

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of the field ``name`` (lower case), or None."""
        return self.head.get(name)

    def lines(self, name: bytes) -> Sequence[FieldLike]:
        """Return every line of the field ``name`` (lower case)."""
        return self.head.named(name)

    @property
    def fields(self) -> Sequence[FieldLike]:
        """All field lines, in the order received."""
        return self.head.lines

    def upstream_section(self, section: bytes) -> bytes:
        """Return the lines of ``section`` (each with CRLF) as forwarded: without hidden lines, with the lines from
        guards."""
        for line in self.hidden_lines:
            # Anchored at both ends: the same octets inside another field's value are not a line.
            lines = b"\r\n" + section
            section = lines.replace(b"\r\n%b\r\n" % line, b"\r\n", 1)[2:]
        for line, rest in self.rewritten_lines:
            # Rewritten in place, and only if the line is forwarded at all: the client's Connection may have named its
            # field.
            lines = b"\r\n" + section
            section = lines.replace(b"\r\n%b\r\n" % line, b"\r\n%b\r\n" % rest, 1)[2:]
        return section + self.upstream_fields


class TracedCall(GuardedCall):
    """A request whose guards continue its trace."""

    __slots__ = ("trace_lines",)


class RequestRefused(Failure):
    """Refusal by a guard, with the fields that the response must have (``WWW-Authenticate``, ``Retry-After``).

    ``detail`` is the reason for the log; the client only learns the kind.
    """

    __slots__ = ("fields",)

    def __init__(self, kind: Kind, detail: str, fields: Fields) -> None:
        super().__init__(kind, detail)
        self.fields = fields


Guard = Callable[[GuardedCall], Response | PendingResult | None]
