"""Errors as problem details (RFC 9457): a JSON document, never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, request
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

log = logging.getLogger("shop")

RETRY_AFTER = 1  # seconds
DETAILS = {404: "There is nothing at this path.", 405: "This resource does not have this method."}


class Problem(Exception):
    """Ends the request with ``status``. ``errors`` are pairs of a JSON pointer (or parameter name) and a message."""

    def __init__(self, status: int, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors


def problem(status: int, detail: str, errors: Sequence[tuple[str, str]] = ()) -> Response:
    """Return the response for an error, which must not be stored: the next request may succeed."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = detail
    if errors:
        body["errors"] = [{"at": at, "detail": what} for at, what in errors]
    response = Response(orjson.dumps(body), status, content_type="application/problem+json")
    response.headers["Cache-Control"] = "no-store"
    return response


def install(app: Flask, engine: Engine) -> None:
    """Respond to every error of ``app``, whose database is ``engine``'s, with problem details."""
    app.register_error_handler(Problem, lambda error: problem(error.status, error.detail, error.errors))
    app.register_error_handler(HTTPException, _http_error)
    driver = engine.dialect.loaded_dbapi
    # SQLAlchemy's errors, and the driver's own, which occur in statements that bypass SQLAlchemy.
    for kind in (OperationalError, InterfaceError, PoolTimeout, driver.OperationalError, driver.InterfaceError):
        app.register_error_handler(kind, unavailable)
    app.register_error_handler(Exception, _unexpected)


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    # Werkzeug's texts are meant for a browser user.
    response = problem(status, DETAILS.get(status) or error.description or HTTPStatus(status).phrase)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def unavailable(error: Exception) -> Response:
    """Log the database error and return 503: another attempt, or another instance, may succeed."""
    log.error("%s %s: database unavailable: %s", request.method, request.path, getattr(error, "orig", error))
    response = problem(503, "The database is not available.")
    response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _unexpected(error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return problem(500, "The service failed. The error has been logged.")
