"""The five routes of a resource: list, read, create, replace, delete. Each request runs one statement."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast
from urllib.parse import urlencode

import orjson
from flask import Flask, Response, request
from sqlalchemy import Engine

from shopkit.paging import page
from shopkit.problems import Problem
from shopkit.resource import Resource

if TYPE_CHECKING:
    from shopkit.aside import Aside

JSON = "application/json"


def json_body() -> object:
    """Return the request's JSON body; raise 415 if its media type is not JSON, 400 if it is malformed."""
    if request.mimetype != JSON:
        raise Problem(415, f"The body must be {JSON}.")
    try:
        return cast(object, orjson.loads(request.get_data()))
    except orjson.JSONDecodeError:
        raise Problem(400, "The body is not valid JSON.") from None


def answer(document: object, status: int = 200) -> Response:
    """Return ``document`` as JSON with a strong ETag, or 304 if the client has it (RFC 9110, section 13.1.2)."""
    body = orjson.dumps(document)
    tag = hashlib.blake2b(body, digest_size=8).hexdigest()
    # Parsing the condition costs more than testing for its presence.
    if request.method == "GET" and "HTTP_IF_NONE_MATCH" in request.environ and request.if_none_match.contains_weak(tag):
        response = Response(status=304)
        del response.headers["Content-Type"]
    else:
        response = Response(body, status, content_type=JSON)
    response.headers["ETag"] = f'"{tag}"'
    return response


def mount(app: Flask, resource: Resource, engine: Engine, aside: Aside | None = None) -> None:
    """Add the routes of ``resource`` to ``app``, on the database of ``engine`` and optionally the cache ``aside``."""
    path, plural = f"/{resource.name}", str(resource.table.name)
    find = resource.finder(engine, aside)

    def changing(identity: str) -> AbstractContextManager[None]:
        return aside.changing(resource.key(identity)) if aside is not None else nullcontext()

    def index() -> Response:
        asked = page(request.args)
        with engine.connect() as connection:
            documents, after = resource.list(connection, asked)
        following = f"{path}?{urlencode({'limit': asked.limit, 'after': after})}" if after else None
        response = answer({plural: documents, "next": following})
        if following:
            response.headers["Link"] = f'<{following}>; rel="next"'
        return response

    def read(identity: str) -> Response:
        return answer(find(identity))

    def create() -> Response:
        body = json_body()
        with engine.connect() as connection:
            identity, document = resource.create(connection, body)
        if aside is not None:
            aside.forget(resource.key(identity))  # delete the stored "no such row"
        response = answer(document, 201)
        response.headers["Location"] = f"{path}/{identity}"
        return response

    def replace(identity: str) -> Response:
        body = json_body()
        with changing(identity), engine.connect() as connection:
            return answer(resource.replace(connection, identity, body))

    def remove(identity: str) -> Response:
        with changing(identity), engine.connect() as connection:
            resource.remove(connection, identity)
        return Response(status=204)

    name, item = resource.name, f"{path}/<identity>"
    app.add_url_rule(path, f"{name}.index", index, methods=["GET"])
    app.add_url_rule(path, f"{name}.create", create, methods=["POST"])
    app.add_url_rule(item, f"{name}.read", read, methods=["GET"])
    app.add_url_rule(item, f"{name}.replace", replace, methods=["PUT"])
    app.add_url_rule(item, f"{name}.remove", remove, methods=["DELETE"])
