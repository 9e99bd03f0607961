"""Gateway of the founding design, kept as a baseline for measurements.

It calls one service after the other, each over a new connection, and decodes and encodes every response. ``python
gateway.py`` serves it with Flask's own server on ``PORT`` (5000); ``founding.gateway:app`` is the application. The
services are at ``USER_SERVICE_URL`` and ``PRODUCT_SERVICE_URL``.
"""

from __future__ import annotations

import os

import requests
from flask import Flask, Response, jsonify

USER_SERVICE_URL = os.environ.get("USER_SERVICE_URL", "http://127.0.0.1:5001")
PRODUCT_SERVICE_URL = os.environ.get("PRODUCT_SERVICE_URL", "http://127.0.0.1:5002")

app = Flask(__name__)


@app.get("/api/<user_id>/<product_id>")
def user_and_product(user_id: str, product_id: str) -> Response:
    # Without timeouts and status checks, as in the design: one slow or failing service blocks the gateway too.
    user = requests.get(f"{USER_SERVICE_URL}/user/{user_id}")  # noqa: S113
    product = requests.get(f"{PRODUCT_SERVICE_URL}/product/{product_id}")  # noqa: S113
    return jsonify({"user": user.json(), "product": product.json()})


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
