"""Monolith of the founding design: it builds both halves of the response in one process.

``python monolith.py`` serves it with Flask's own server on ``PORT`` (5000); ``founding.monolith:app`` is the
application.
"""

from __future__ import annotations

import os

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.get("/api/<user_id>/<product_id>")
def user_and_product(user_id: str, product_id: str) -> Response:
    user = {"user_id": user_id, "username": f"user_{user_id}", "email": f"user_{user_id}@example.com"}
    product = {"product_id": product_id, "name": f"Produit_{product_id}", "price": 19.99}
    return jsonify({"user": user, "product": product})


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
