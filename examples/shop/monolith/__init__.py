"""The shop before the split: one process, one database, and responses composed from both tables."""

from __future__ import annotations

from flask import Flask, Response

from shopkit.catalogue import PRODUCTS, USERS
from shopkit.routes import answer
from shopkit.service import create_app, engine_of


def build(url: str | None = None) -> Flask:
    """Return the monolith over the database at ``url`` (by default its own)."""
    app = create_app("monolith", url)
    engine = engine_of(app)
    find_user, find_product = USERS.finder(engine), PRODUCTS.finder(engine)

    def user_and_product(user_id: str, product_id: str) -> Response:
        return answer({"user": find_user(user_id), "product": find_product(product_id)})

    app.add_url_rule("/api/<user_id>/<product_id>", "api", user_and_product, methods=["GET"])
    return app


app = build()
