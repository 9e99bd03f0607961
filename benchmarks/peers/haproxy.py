"""HAProxy: one thread, round robin, idle upstream connections shared by all clients."""

from __future__ import annotations

from benchmarks.peers.base import Command, Site, first_line, lacks_program, program


class HAProxy:
    name = "haproxy"

    def missing(self) -> str | None:
        return lacks_program("haproxy", "haproxy")

    def version(self) -> str:
        return first_line("haproxy", "-v")

    def forward(self, site: Site) -> Command:
        servers = "\n".join(f"  server s{number} {address}" for number, address in enumerate(site.upstreams))
        file = site.write(
            "haproxy.cfg",
            f"""global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 120s
  option http-keep-alive
  http-reuse always
frontend clients
  bind 127.0.0.1:{site.port}
  default_backend upstreams
backend upstreams
  balance roundrobin
{servers}
""",
        )
        return Command([program("haproxy"), "-db", "-f", str(file)])

    def stream(self, site: Site) -> Command:
        """It never stores a body anyway."""
        return self.forward(site)
