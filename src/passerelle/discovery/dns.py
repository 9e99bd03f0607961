"""DNS discovery: A and AAAA records (RFC 1035, RFC 3596), and SRV records (RFC 2782) for ``_http._tcp.shop``.

The result of each query is kept. If a later query fails (by timeout or SERVFAIL), its previous result remains valid, so
that an incomplete response removes no instance.
"""

from __future__ import annotations

import asyncio

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

from passerelle.config.models.addresses import Lookup
from passerelle.config.models.discovery import Dns
from passerelle.discovery.types import DiscoveryFailed, FoundInstance

_Rows = list[tuple[int, float, int, str]]  # priority, weight, port, host or address


class Resolver:
    """Resolves one name repeatedly. Times in seconds."""

    def __init__(self, target: Lookup, settings: Dns) -> None:
        self._target = target
        self._timeout = settings.timeout
        server = settings.server
        # The servers of the system are used with its search domains, which Kubernetes needs.
        self._search = server is None
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=server is None)
        except dns.resolver.NoResolverConfiguration as error:
            raise DiscoveryFailed("this system has no DNS servers configured; set dns.server") from error
        if server is not None:
            self._resolver.nameservers = [dns.nameserver.Do53Nameserver(server.host, server.port)]
        self._known: dict[tuple[str, str], _Rows] = {}

    async def look_up(self) -> tuple[list[FoundInstance], float]:
        """Resolve the name. Returns the instances, and the seconds for which the result is valid.

        :raises DiscoveryFailed: if there are no instances, or the servers do not respond.
        """
        target = self._target
        if not target.srv:
            hosts, ttl = await self._addresses(target.host)
            return [FoundInstance(host, target.port) for host in hosts], ttl
        rows, ttl, problem = await self._query(target.host, "SRV")
        if not rows:
            raise DiscoveryFailed(problem)
        # Tiers are the ranks of the priorities. Targets in the configuration are in the first tier.
        tiers = {priority: place for place, priority in enumerate(sorted({row[0] for row in rows}))}
        answers = await asyncio.gather(*(self._addresses(row[3]) for row in rows), return_exceptions=True)
        found = []
        for (priority, weight, port, _), answer in zip(rows, answers, strict=True):
            if isinstance(answer, DiscoveryFailed):
                problem = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                ttl = min(ttl, answer[1])
                # RFC 2782: weight 0 means a small share, not none.
                found += [FoundInstance(host, port, max(weight, 1.0), tiers[priority]) for host in answer[0]]
        if not found:
            raise DiscoveryFailed(problem)
        return found, ttl

    async def _addresses(self, name: str) -> tuple[list[str], float]:
        answers = await asyncio.gather(self._query(name, "A"), self._query(name, "AAAA"))
        hosts = [row[3] for rows, _, _ in answers for row in rows]
        if not hosts:
            raise DiscoveryFailed(
                next((problem for _, _, problem in answers if "no response" in problem), answers[0][2])
            )
        return hosts, min(ttl for rows, ttl, _ in answers if rows)

    async def _query(self, name: str, kind: str) -> tuple[_Rows, float, str]:
        """Query one record type. Returns the rows, their TTL, and the problem if there are none."""
        key = name, kind
        try:
            answer = await self._resolver.resolve(name, kind, search=self._search, lifetime=self._timeout)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            self._known.pop(key, None)
            return [], 0.0, f"{name} has no {kind} records"
        except (dns.exception.DNSException, OSError) as error:
            why = f"no response within {self._timeout:g} s" if isinstance(error, dns.exception.Timeout) else str(error)
            # The previous result remains valid until the next query. TTL 0 makes that as early as allowed.
            return self._known.get(key, []), 0.0, f"no response for the {kind} records of {name}: {why}"
        rows: _Rows = []
        for record in answer:
            if kind != "SRV":
                rows.append((0, 1.0, 0, record.address))
            elif (host := record.target.to_text()) != ".":  # "." means that the service is not available
                rows.append((record.priority, float(record.weight), record.port, host))
        rows.sort()
        self._known[key] = rows
        ttl = float(answer.rrset.ttl) if answer.rrset is not None else 0.0
        return rows, ttl, f"{name} has no {kind} records"
