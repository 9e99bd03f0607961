"""DNS server on a loopback UDP port; a test changes its records while it runs."""

from __future__ import annotations

import socket
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class Names:
    """``records`` maps (name, type) to texts; ``broken``: all queries get SERVFAIL; ``silent``: none gets a
    response."""

    def __init__(self, ttl: int = 0, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = ttl
        self.broken = self.silent = False
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self.server = f"{address[0]}:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(4096)
            if not data:
                return
            question = dns.message.from_wire(data)
            self.asked += 1
            if self.silent:
                continue
            self._socket.sendto(self._answer(question).to_wire(), peer)

    def _answer(self, question: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(question)
        response.flags |= dns.flags.RA
        if self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        asked = question.question[0]
        name = asked.name.to_text().removesuffix(".")
        texts = self.records.get((name, dns.rdatatype.to_text(asked.rdtype)), [])
        if texts:
            response.answer.append(dns.rrset.from_text_list(asked.name, self.ttl, "IN", asked.rdtype, texts))
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()
