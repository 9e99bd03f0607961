"""An application of Flask that shows what it sees of its client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, abort, jsonify, redirect, request, session, url_for
from werkzeug.middleware.proxy_fix import ProxyFix


def create_app(*, proxied: bool = False) -> Flask:
    """Make the application; ``proxied`` believes the fields that a proxy sends."""
    app = Flask(__name__)
    app.secret_key = "only for this test"
    if proxied:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)  # type: ignore[method-assign]

    @app.route("/", methods=["GET", "POST", "PUT", "DELETE"])
    @app.route("/seen/<path:rest>", methods=["GET", "POST", "PUT", "DELETE"])
    def seen(rest: str = "") -> Response:
        names = ("REMOTE_ADDR", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "wsgi.url_scheme", "CONTENT_TYPE")
        found: dict[str, Any] = {name: request.environ.get(name) or "" for name in names}
        found |= {"url": request.url, "root": request.url_root, "link": url_for("seen", rest="a b", _external=True)}
        found |= {"body": request.get_data(as_text=True), "agent": request.headers.get("User-Agent", "")}
        return jsonify(found)

    @app.get("/old")
    def old() -> Any:
        return redirect(url_for("seen", rest="new"))

    @app.get("/visits")
    def visits() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return f"{session['visits']}"

    @app.get("/stream")
    def stream() -> Response:
        def lines() -> Iterator[str]:
            for number in range(100):
                yield f"line {number}\n"

        return Response(lines(), mimetype="text/plain")

    @app.get("/events")
    def events() -> Response:
        return Response((f"data: {number}\n\n" for number in range(3)), mimetype="text/event-stream")

    @app.get("/fails")
    def fails() -> str:
        raise RuntimeError("a defect of the application")

    @app.get("/status/<int:status>")
    def status(status: int) -> Any:
        abort(status)

    @app.post("/length")
    def length() -> dict[str, int]:
        return {"length": len(request.get_data())}

    return app
