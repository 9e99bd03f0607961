"""Upstream of every gateway: one nginx that responds from memory, on any number of ports.

nginx uses the least of the CPU that it shares with the load. Its responses are fixed, about 100 bytes of JSON each,
whatever the identifier in the path.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.base import Site
from benchmarks.peers.nginx import command
from benchmarks.rig.core import Rig
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import Server

USER = '{"user_id":"42","username":"user_42","email":"user_42@example.com","created":"2026-01-01T00:00:00Z"}'
PRODUCT = '{"product_id":"7","name":"Produit_7","price":19.99,"stock":1200,"currency":"EUR","kind":"book"}'
_KEPT = 'add_header Cache-Control "public, max-age=86400";'
COMPOSED = f'{{"user":{USER},"product":{PRODUCT}}}'


def start(rig: Rig, count: int = 3, connections: int = 4096, *, kept: bool = False) -> tuple[Server, Sequence[str]]:
    """Start nginx on ``count`` ports of the load's CPU; return it and its addresses. With ``kept``, responses are
    cacheable."""
    lasting = _KEPT if kept else ""
    ports = [rig.port() for _ in range(count)]
    folder = rig.subfolder("upstreams")
    site = Site(folder, ports[0], ())
    listens = "\n".join(f"    listen {LOOPBACK}:{port} backlog=4096;" for port in ports)
    set_up = command(
        site,
        f"""  default_type application/json;
  server {{
{listens}
    location /user/ {{ {lasting} return 200 '{USER}'; }}
    location /product/ {{ {lasting} return 200 '{PRODUCT}'; }}
  }}""",
        connections + count,
    )
    server = rig.start("upstreams", set_up.argv, ports[0], folder, ready="/user/1", under_test=False)
    return server, [f"{LOOPBACK}:{port}" for port in ports]
