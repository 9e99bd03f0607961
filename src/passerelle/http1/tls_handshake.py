"""The server's side of a TLS handshake: refusals that the client can understand.

The event loop closes the connection of a failed handshake without sending the alert that OpenSSL has made (RFC 8446
§6.2), and :mod:`ssl` continues without ALPN where client and server have no protocol in common (RFC 7301 §3.2 requires
an alert). :class:`ListenerContext` makes up for both. A handshake that fails costs one more write, any other the search
for one extension.

A client that offers the protocol ``acme-tls/1`` alone validates a name for an authority (RFC 8737): it gets a
certificate made for that, and its connection ends with the handshake.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

# Sends the alert of the handshake that is started in this context, before its connection is closed.
alert_sender: ContextVar[Callable[[bytes], None] | None] = ContextVar("alert_sender", default=None)

NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"  # a record with a fatal alert, 120 (RFC 7301 §3.2)
# Bytes of a ClientHello that are kept until it is complete. A longer one is left to OpenSSL, and its ALPN is not read.
LONGEST_HELLO = 32_768
_ALPN = 16  # the type of the extension


VALIDATION = b"acme-tls/1"


class Validated(ssl.SSLError):
    """The handshake was a validation (RFC 8737), which is complete: no connection follows."""

    reason = "VALIDATED"


class NoCommonProtocol(ssl.SSLError):
    """The client offers ALPN protocols, none of which the listener speaks."""

    reason = "NO_APPLICATION_PROTOCOL"


class ListenerSession(ssl.SSLObject):
    """One TLS connection of a client."""

    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _send_alert: Callable[[bytes], None] | None
    _protocols: frozenset[bytes] | None  # those of the server; None once the ClientHello was checked
    _validation: ssl.SSLContext | None
    _validated: ssl.SSLObject | None = None

    def begin(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        protocols: frozenset[bytes],
        validation: ssl.SSLContext | None,
    ) -> None:
        """Note the buffers of the connection, who sends its alert, and the context of validations."""
        self._validation = validation
        self._incoming = incoming
        self._outgoing = outgoing
        self._send_alert = alert_sender.get()
        self._protocols = protocols
        self._hello = ClientHello()

    def do_handshake(self) -> None:
        """Continue the handshake; if it fails, send the alert.

        :raises ssl.SSLError: if the handshake fails, or needs more data (:class:`ssl.SSLWantReadError`).
        """
        if self._protocols is not None:
            self._check_protocols(self._protocols)
        try:
            if self._validated is not None:
                self._validate(self._validated)
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, Validated):
            raise
        except ssl.SSLError:
            self._refuse(self._outgoing.read())
            raise

    def _check_protocols(self, own: frozenset[bytes]) -> None:
        data = self._incoming.read()
        self._incoming.write(data)
        offered = self._hello.offered_protocols(data)
        if offered is None and len(data) <= LONGEST_HELLO:
            raise ssl.SSLWantReadError
        self._protocols = None
        if offered and own.isdisjoint(offered):
            if self._validation is not None and offered == (VALIDATION,):
                # A session of its own: this one may require a client certificate.
                self._validated = self._validation.wrap_bio(self._incoming, self._outgoing, server_side=True)
                return
            self._refuse(NO_APPLICATION_PROTOCOL)
            raise NoCommonProtocol

    def _validate(self, session: ssl.SSLObject) -> None:
        session.do_handshake()
        self._refuse(self._outgoing.read())  # with TLS 1.2, the client still waits for these bytes
        raise Validated

    def _refuse(self, alert: bytes) -> None:
        if alert and self._send_alert is not None:
            self._send_alert(alert)


class ListenerContext(ssl.SSLContext):
    """The TLS context of a listener that speaks the ALPN ``protocols``.

    ``validation`` is for clients that validate a name; None while no authority does.
    """

    sslobject_class = ListenerSession
    protocols: frozenset[bytes] = frozenset()
    validation: ssl.SSLContext | None = None

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> ssl.SSLObject:
        """Create the object of one connection."""
        session = super().wrap_bio(incoming, outgoing, *args, **options)
        assert isinstance(session, ListenerSession)
        session.begin(incoming, outgoing, self.protocols, self.validation)
        return session


class ClientHello:
    """Reads the ClientHello of one connection. A record is read once, however many segments it arrives in."""

    __slots__ = ("_hello", "_position")

    def __init__(self) -> None:
        self._hello = bytearray()  # without the headers of its records
        self._position = 0  # where the next record begins

    def offered_protocols(self, data: bytes) -> tuple[bytes, ...] | None:
        """Return the ALPN protocols of the ClientHello that ``data`` begins with (RFC 8446 §4.1.2, RFC 7301 §3.1).

        ``data`` is everything that was received so far. The result is empty without the extension, and for what is no
        ClientHello, which OpenSSL refuses by itself. It is None while the ClientHello is incomplete.
        """
        hello, position = self._hello, self._position
        while True:
            record = data[position : position + 5]
            if not b"\x16\x03".startswith(record[:2]):
                return ()
            size = int.from_bytes(record[3:])
            if len(record) < 5 or len(data) < position + 5 + size:
                self._position = position
                return None
            if not size:
                return ()
            hello += data[position + 5 : position + 5 + size]
            position += 5 + size
            if hello[0] != 1:
                return ()
            if len(hello) >= 4 and len(hello) >= 4 + int.from_bytes(hello[1:4]):
                return _offered(bytes(hello))


def _offered(hello: bytes) -> tuple[bytes, ...]:
    try:
        position = 4 + 2 + 32  # type and length, version, random
        position += 1 + hello[position]  # session id
        position += 2 + int.from_bytes(hello[position : position + 2])  # cipher suites
        position += 1 + hello[position]  # compression methods
        end = position + 2 + int.from_bytes(hello[position : position + 2])
        position += 2
        while position < end:
            kind, size = int.from_bytes(hello[position : position + 2]), hello[position + 2 : position + 4]
            position += 4
            if kind == _ALPN:
                return tuple(_names(hello[position + 2 : position + int.from_bytes(size)]))
            position += int.from_bytes(size)
    except IndexError:
        pass  # malformed
    return ()


def _names(data: bytes) -> list[bytes]:
    names = []
    while data:
        names.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]
    return names
