"""The challenges of orders for certificates that the gateway responds to now, over HTTP and in TLS handshakes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from passerelle.acme.challenge import HTTP, TLS
from passerelle.errors import Failure
from passerelle.http.messages import Response
from passerelle.http1.head import RequestHead
from passerelle.http1.interfaces import RequestHandler, ServerConnection
from passerelle.http1.server.passive_exchange import PassiveExchange

PREFIX = b"/.well-known/acme-challenge/"


class Challenges:
    """The pending challenges. Without one over HTTP, requests have no further handler before their own."""

    def __init__(self) -> None:
        self._tokens: dict[bytes, bytes] = {}
        self.proofs: dict[str, bytes] = {}  # by name: the certificate of `tls-alpn-01` and its key

    def replace(self, pending: Iterable[Mapping[str, str]]) -> None:
        """Respond to these challenges from now on, and to no others."""
        found = list(pending)
        self._tokens = {each["token"].encode(): each["proof"].encode() for each in found if each["kind"] == HTTP}
        self.proofs = {each["name"]: each["proof"].encode() for each in found if each["kind"] == TLS}

    def before(self, handler: RequestHandler) -> RequestHandler:
        """Return a handler that responds to pending challenges, and leaves all other requests to ``handler``."""
        return _ChallengeHandler(handler, self._tokens) if self._tokens else handler


class _ChallengeHandler:
    """Responds to requests for the ``tokens`` of challenges (RFC 8555 §8.3)."""

    def __init__(self, handler: RequestHandler, tokens: Mapping[bytes, bytes]) -> None:
        self._handler = handler
        self._tokens = tokens

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Respond to the request of the authority, or pass it on."""
        if target.startswith(PREFIX) and method in (b"GET", b"HEAD"):
            proof = self._tokens.get(target[len(PREFIX) :])
            if proof is not None:
                connection.adopt(PassiveExchange())
                connection.send(Response(200, [(b"content-type", b"application/octet-stream")], proof))
                return
        self._handler.on_request(connection, method, target, head)

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """Pass it on."""
        return self._handler.on_refused(connection, failure)
