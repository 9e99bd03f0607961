"""Product service: the shop's products."""

from __future__ import annotations

from shopkit.service import create_app
from shopkit.settings import redis_url

app = create_app("products", redis=redis_url())
