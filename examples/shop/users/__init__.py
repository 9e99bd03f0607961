"""The user service: who the shop's customers are."""

from __future__ import annotations

from shopkit.service import create_app

app = create_app("users")
