"""Why an order failed."""

from __future__ import annotations

from typing import Final, Literal

_MOST_TEXT: Final = 300

Concerns = Literal["name", "account", "connection"]
"""What a failure concerns: one name, all orders of the account, or the connection to the authority."""


class OrderFailed(Exception):
    """An order failed; the text is the reason. ``retry_after`` are the seconds that the authority states, or None."""

    def __init__(self, text: str, retry_after: float | None = None, *, concerns: Concerns = "name") -> None:
        super().__init__(" ".join(text.split())[:_MOST_TEXT])
        self.retry_after = retry_after
        self.concerns = concerns
