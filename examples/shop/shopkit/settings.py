"""Location of each service's data: from the environment, by default SQLite under ``var/`` and no Redis."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SHOP = Path(__file__).resolve().parent.parent


def database_url(service: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the SQLAlchemy URL of ``service``'s own database.

    ``<SERVICE>_DATABASE_URL`` takes precedence over ``DATABASE_URL``, and the default is ``var/<service>.db`` beside
    this example. An empty variable counts as absent. ``postgres://`` and ``postgresql://`` select psycopg 3.
    """
    given = environ.get(f"{service.upper()}_DATABASE_URL") or environ.get("DATABASE_URL")
    if not given:
        return f"sqlite:///{SHOP / 'var' / service}.db"
    for scheme in ("postgres://", "postgresql://"):
        if given.startswith(scheme):
            return "postgresql+psycopg://" + given.removeprefix(scheme)
    return given


def redis_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return ``REDIS_URL``, or None if it is absent or empty: then every read uses the database."""
    return environ.get("REDIS_URL") or None
