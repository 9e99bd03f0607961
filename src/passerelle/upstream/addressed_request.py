"""Requests to a service whose instances receive another Host than that of the client, another path, or more fields."""

from __future__ import annotations

import re

from passerelle.balancing.instance import Instance
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.upstream.guarded_request import GuardedRequest

_HOST_LINE = re.compile(rb"\r\nHost:[^\r\n]*", re.IGNORECASE)


class AddressedRequest(GuardedRequest):
    """A request with the Host of its service or the address of the instance, with its path, and with its fields."""

    __slots__ = ()

    def _send(self, connection: UpstreamConnection) -> None:
        plain, self._message = self._message, self._addressed(self._message, self.instance)
        super()._send(connection)
        self._message = plain

    def message_for(self, instance: Instance) -> bytes:
        """Return the head of the request as ``instance`` is to receive it now."""
        return self._addressed(super().message_for(instance), instance)

    def _addressed(self, message: bytes, instance: Instance) -> bytes:
        service = self._service
        if not service.keeps_host:
            host = service.host or instance.endpoint.authority
            # The head of a request has exactly one Host (RFC 9112 §3.2), and no request line contains CRLF.
            message = _HOST_LINE.sub(lambda _: b"\r\nHost: " + host, message, count=1)
        if service.path:
            method, _, rest = message.partition(b" ")
            if rest.startswith(b"/"):  # not the asterisk of OPTIONS
                message = b"%b %b%b" % (method, service.path, rest)
        return message if service.forwarding is None else service.forwarding.apply(message)
