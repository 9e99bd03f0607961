"""HAProxy: one thread, round robin, idle upstream connections shared by all clients."""

from __future__ import annotations

from benchmarks.peers.base import Command, Site, first_line, lacks_program, program

_LOG = "  log stdout format raw daemon\n"
_LOGGING = "  log global\n  option httplog\n"


class HAProxy:
    name = "haproxy"

    def __init__(self, *, access_log: bool = False) -> None:
        self._access_log = access_log

    def missing(self) -> str | None:
        return lacks_program("haproxy", "haproxy")

    def version(self) -> str:
        return first_line("haproxy", "-v")

    def forward(self, site: Site) -> Command:
        return self._command(site, log=self._access_log)

    def policy(self, site: Site, secret: str) -> Command:
        """Verify the token's signature, algorithm and expiry, count requests by address, and log them."""
        return self._command(
            site,
            f"""  stick-table type ipv6 size 100k expire 10s store http_req_rate(1s)
  http-request deny deny_status 401 unless {{ http_auth_bearer,jwt_header_query('$.alg') -m str HS256 }}
  http-request deny deny_status 401 unless {{ http_auth_bearer,jwt_verify("HS256","{secret}") -m int 1 }}
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 if {{ http_auth_bearer,jwt_payload_query('$.exp','int'),sub(txn.now) -m int lt 0 }}
  http-request track-sc0 src
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000 }}
""",
            log=True,
        )

    def _command(self, site: Site, frontend: str = "", *, log: bool) -> Command:
        servers = "\n".join(f"  server s{number} {address}" for number, address in enumerate(site.upstreams))
        file = site.write(
            "haproxy.cfg",
            f"""global
  nbthread 1
  maxconn 4096
{_LOG if log else ""}defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 120s
  option http-keep-alive
  http-reuse always
{_LOGGING if log else ""}frontend clients
  bind 127.0.0.1:{site.port}
{frontend}  default_backend upstreams
backend upstreams
  balance roundrobin
{servers}
""",
        )
        return Command([program("haproxy"), "-db", "-f", str(file)])

    def stream(self, site: Site) -> Command:
        """Forward; HAProxy never buffers whole bodies by default."""
        return self.forward(site)
