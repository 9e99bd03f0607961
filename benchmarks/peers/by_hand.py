"""Hand-written gateways in Python; the programs are in ``programs/``."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers.base import Command, Site, lacks_modules, module_versions

_PROGRAMS = Path(__file__).parent / "programs"


def _start(program: str, site: Site) -> Command:
    return Command([sys.executable, str(_PROGRAMS / program), str(site.port), *site.upstreams])


class Aiohttp:
    name = "aiohttp"
    packages = ("aiohttp", "orjson", "uvloop")

    def missing(self) -> str | None:
        return lacks_modules(*self.packages)

    def version(self) -> str:
        return module_versions(*self.packages)

    def compose(self, site: Site) -> Command:
        return _start("aiohttp_gateway.py", site)


class FastAPI:
    name = "fastapi"
    packages = ("fastapi", "httpx", "uvicorn", "uvloop", "httptools")

    def missing(self) -> str | None:
        return lacks_modules(*self.packages)

    def version(self) -> str:
        return module_versions(*self.packages)

    def compose(self, site: Site) -> Command:
        return _start("fastapi_gateway.py", site)
