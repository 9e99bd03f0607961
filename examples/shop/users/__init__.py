"""User service: the shop's customers, and the verification of their passwords."""

from __future__ import annotations

from flask import Flask

from shopkit import accounts
from shopkit.service import create_app, engine_of
from shopkit.settings import redis_url


def build(url: str | None = None) -> Flask:
    """Return the user service over the database at ``url`` (by default its own), with ``REDIS_URL``."""
    app = create_app("users", url, redis_url())
    accounts.mount(app, engine_of(app))
    return app


app = build()
