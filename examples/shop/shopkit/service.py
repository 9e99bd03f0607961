"""Flask application on one database: the common structure of the three services."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Flask, Response
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from shopkit import database, problems, settings, tracing
from shopkit.catalogue import RESOURCES
from shopkit.routes import JSON, mount

BODY_LIMIT = 64 * 1024  # bytes; the largest valid body is under 2 KiB


def create_app(service: str, url: str | None = None, redis: str | None = None, provider: Any = None) -> Flask:
    """Return the application of ``service`` (``users``, ``products``, ``monolith``) with the routes of its resources.

    ``url`` is the database's URL, by default that of :func:`shopkit.settings.database_url`. ``redis`` is the URL of the
    Redis for the cache-aside, if any. ``provider`` is an OpenTelemetry tracer provider, by default one for the
    collector of the environment, if there is one. No connection is opened before the first request, so importing an
    application never fails for lack of a database.
    """
    app = Flask(service, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    # A resource has a single URL: no redirect from //user//1.
    app.url_map.merge_slashes = False
    app.extensions["engine"] = engine = database.connect(url or settings.database_url(service))
    if provider is None and tracing.wanted():
        provider = tracing.provider_of(service)
    if provider is not None:
        tracing.install(app, engine, provider)
    problems.install(app, engine)
    aside = None
    if redis:
        from shopkit.aside import Aside  # without Redis, redis-py need not be installed or imported

        app.extensions["aside"] = aside = Aside.at(redis)
    for resource in RESOURCES[service]:
        mount(app, resource, engine, aside)
    probes = [select(resource.table.c.id).limit(1) for resource in RESOURCES[service]]

    def healthz() -> Response:
        # Reads one row of each table, so that a database that was never prepared counts as unhealthy.
        try:
            with engine.connect() as connection:
                for probe in probes:
                    connection.execute(probe).first()
        except SQLAlchemyError as error:
            return problems.unavailable(error)
        response = Response(orjson.dumps({"status": "ok", "service": service}), content_type=JSON)
        response.headers["Cache-Control"] = "no-store"
        return response

    app.add_url_rule("/healthz", "healthz", healthz, methods=["GET"])
    return app


def engine_of(app: Flask) -> Engine:
    """Return the engine of an application created by :func:`create_app`."""
    engine = app.extensions["engine"]
    assert isinstance(engine, Engine)
    return engine
