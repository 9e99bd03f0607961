"""Founding design, from ``examples/shop/founding``; each part is served by gunicorn with one worker."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.base import Command, Site, lacks_modules, module_versions

SHOP = Path(__file__).parents[2] / "examples" / "shop"
_PACKAGES = ("flask", "gunicorn")


def serve(module: str, site: Site, env: Mapping[str, str] | None = None) -> Command:
    """Serve one of the applications on the site's port."""
    serving = ["--workers", "1", "--bind", f"127.0.0.1:{site.port}", "--no-control-socket", "--log-level", "warning"]
    return Command(
        [sys.executable, "-m", "gunicorn", "--chdir", str(SHOP), *serving, f"founding.{module}:app"], env or {}
    )


def _missing(module: str, *packages: str) -> str | None:
    if not (SHOP / "founding" / f"{module}.py").exists():
        return f"examples/shop/founding/{module}.py"
    return lacks_modules(*packages)


class Monolith:
    """Monolith that builds both parts of the response in one process: the starting point of the founding design."""

    name = "monolith"

    def missing(self) -> str | None:
        return _missing("monolith", *_PACKAGES)

    def version(self) -> str:
        return module_versions(*_PACKAGES)

    def compose(self, site: Site) -> Command:
        return serve("monolith", site)


class FlaskGateway:
    """Gateway of the founding design: Flask in front, ``requests`` to the services behind."""

    name = "flask"

    def missing(self) -> str | None:
        return _missing("gateway", *_PACKAGES, "requests")

    def version(self) -> str:
        return module_versions(*_PACKAGES, "requests")

    def compose(self, site: Site) -> Command:
        """Compose, with the first upstream as user service and the second as product service."""
        users, products = site.upstreams
        return serve(
            "gateway", site, {"USER_SERVICE_URL": f"http://{users}", "PRODUCT_SERVICE_URL": f"http://{products}"}
        )
