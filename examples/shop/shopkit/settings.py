"""Location of each service's data: from the environment, by default SQLite under ``var/`` and no Redis."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SHOP = Path(__file__).resolve().parent.parent
POOL_SIZE = 4


def database_url(service: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the SQLAlchemy URL of ``service``'s own database.

    ``<SERVICE>_DATABASE_URL`` takes precedence over ``DATABASE_URL``, and the default is ``var/<service>.db`` beside
    this example. An empty variable counts as absent. ``postgres://`` and ``postgresql://`` select psycopg 3.
    """
    given = environ.get(f"{service.upper()}_DATABASE_URL") or environ.get("DATABASE_URL")
    return with_driver(given) if given else f"sqlite:///{SHOP / 'var' / service}.db"


def with_driver(url: str) -> str:
    """Return ``url`` with psycopg 3 as the driver of PostgreSQL."""
    for scheme in ("postgres://", "postgresql://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def pool_size(environ: Mapping[str, str] = os.environ) -> int:
    """Return ``DATABASE_POOL_SIZE``: how many connections each instance of a service opens at most, by default 4.

    More than the threads of the application server (4 by default) are not used; with fewer, threads wait. Raises
    ValueError for anything but a number from 1 to 100.
    """
    given = environ.get("DATABASE_POOL_SIZE") or str(POOL_SIZE)
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:4]) <= 100):
        raise ValueError(f"DATABASE_POOL_SIZE: found {given!r}; allowed is a number from 1 to 100")
    return int(given)


def redis_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return ``REDIS_URL``, or None if it is absent or empty: then every read uses the database."""
    return environ.get("REDIS_URL") or None
