"""What a guard is asked, and what it may say.

A guard is a callable made when the plan is built. It looks at a request before anything of it is sent on, and either
lets it pass (None), answers itself (a :class:`~passerelle.http.messages.Response`), refuses (raises a
:class:`~passerelle.errors.Failure`), or must wait for something first (a :class:`PendingResult`): then it is asked once
more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from passerelle.errors import Failure, Kind
from passerelle.http.messages import Fields, Response
from passerelle.security.identity import Identity


class FieldLike(Protocol):
    """One field line: its name in lower case, its value, and the line as it came, without CRLF."""

    @property
    def name(self) -> bytes:
        """The name in lower case."""

    @property
    def value(self) -> bytes:
        """The value without surrounding blanks."""

    @property
    def line(self) -> bytes:
        """The line as received."""


class PendingResult(Protocol):
    """Something that is under way."""

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when it has ended, well or not; never at once. Its end is bounded in time."""


class GuardedCall:
    """A request as guards see it, and what they leave on it for those who come after.

    ``address`` is the client's, from the trusted end of the chain. ``response_fields`` collects field lines (with CRLF)
    for whatever is answered, ``upstream_fields`` those that go to the service; ``hidden_lines`` are lines of the client
    that do not, ``rewritten_lines`` those that go on in another form, each with that form.
    ``certificate`` is the one that TLS has verified, as :meth:`ssl.SSLSocket.getpeercert` gives it.
    ``pending`` is what the guard that said :class:`PendingResult` waits for, and nobody else's: it takes it away at its
    end. ``peer`` and ``scheme`` are the connection's.
    ``variant_identity`` stands for what services are told that may make their answers this client's own, beside
    ``identity``.
    """

    __slots__ = (
        "address",
        "certificate",
        "fields",
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

    def __init__(
        self,
        method: bytes,
        path: bytes,
        address: bytes,
        fields: Sequence[FieldLike],
        certificate: Mapping[str, Any] | None = None,
        query: bytes = b"",
        request_id: bytes = b"",
        peer: bytes = b"",
        scheme: bytes = b"http",
    ) -> None:
        self.method = method
        self.path = path
        self.address = address
        self.fields = fields
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

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field called ``name`` (lower case), or None."""
        for field in self.fields:
            if field.name == name:
                return field.value
        return None

    def lines(self, name: bytes) -> list[FieldLike]:
        """Every line of the field called ``name`` (lower case)."""
        return [field for field in self.fields if field.name == name]

    def upstream_section(self, section: bytes) -> bytes:
        """The lines ``section`` (CRLF after each) as they go upstream: without those withheld, with the guards' own."""
        for line in self.hidden_lines:
            # Anchored at both ends: the same octets inside another field's value are not a line.
            lines = b"\r\n" + section
            section = lines.replace(b"\r\n%b\r\n" % line, b"\r\n", 1)[2:]
        for line, rest in self.rewritten_lines:
            # In its place, and only if it goes on at all: the client's Connection may have named it.
            lines = b"\r\n" + section
            section = lines.replace(b"\r\n%b\r\n" % line, b"\r\n%b\r\n" % rest, 1)[2:]
        return section + self.upstream_fields


class RequestRefused(Failure):
    """A guard's no, with the fields that the answer must have (``WWW-Authenticate``, ``Retry-After``).

    ``detail`` says in the log why; the client learns no more than the kind.
    """

    __slots__ = ("fields",)

    def __init__(self, kind: Kind, detail: str, fields: Fields) -> None:
        super().__init__(kind, detail)
        self.fields = fields


Guard = Callable[[GuardedCall], Response | PendingResult | None]
