"""The shop's applications for the walk: 50 ms away, with a field that names them, and with a planted defect.

A defect of a new service is one that tests often miss: a number that has become text, a field that some rows do not
have, a slow query. ``CROSSING_DEFECT`` names it in the environment of an instance.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask
from werkzeug.wrappers import Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SERVED_BY = "X-Served-By"
DELAY = 0.05  # seconds: a database in another rack, without which differences of latency drown in the noise of a laptop

Document = dict[str, Any]


def _price_as_text(document: Document) -> None:
    if "price" in document:
        document["price"] = str(document["price"])


def _missing_email(document: Document) -> None:
    if str(document.get("user_id", "")).endswith("07"):
        document.pop("email", None)


DEFECTS: dict[str, tuple[str, Callable[[Document], None] | None]] = {
    "price-as-text": ("product", _price_as_text),
    "missing-email": ("user", _missing_email),
    "three-times-slower": ("user", None),
}
"""Name to the resource whose service has the defect, and what it does to a document; None: it is slow."""


class Served:
    """A WSGI middleware: ``application`` as the service ``name``, with the defect of the environment."""

    def __init__(self, name: str, application: WSGIApplication, defect: str | None) -> None:
        self._name = name
        self._application = application
        self._change = DEFECTS[defect][1] if defect is not None else None
        self._delay = DELAY * (3 if defect is not None and self._change is None else 1)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        if environ["PATH_INFO"] == "/healthz":
            return self._application(environ, start_response)
        time.sleep(self._delay)
        response = Response.from_app(self._application, environ, buffered=True)
        if self._change is not None and response.mimetype == "application/json":
            document = orjson.loads(response.get_data())
            self._change(document)
            response.set_data(orjson.dumps(document))
        response.headers[SERVED_BY] = self._name
        return response(environ, start_response)


def _served(name: str) -> Flask:
    app: Flask = importlib.import_module(name).app
    defect = os.environ.get("CROSSING_DEFECT") or None
    app.wsgi_app = Served(name, app.wsgi_app, defect)  # type: ignore[method-assign]  # as Flask documents it
    return app


def monolith() -> Flask:
    """Return the monolith."""
    return _served("monolith")


def users() -> Flask:
    """Return the user service."""
    return _served("users")


def products() -> Flask:
    """Return the product service."""
    return _served("products")
