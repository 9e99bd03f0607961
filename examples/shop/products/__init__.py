"""The product service: what the shop sells."""

from __future__ import annotations

from shopkit.service import create_app

app = create_app("products")
