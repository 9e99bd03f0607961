"""Product service of the founding design: it generates its response instead of reading a database.

``python products.py`` serves it with Flask's own server on ``PORT`` (5002); ``founding.products:app`` is the
application.
"""

from __future__ import annotations

import os

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.get("/product/<product_id>")
def product(product_id: str) -> Response:
    return jsonify({"product_id": product_id, "name": f"Produit_{product_id}", "price": 19.99})


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5002")))
