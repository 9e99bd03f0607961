"""Routes in maintenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from passerelle.actions.interfaces import ActionExchange
from passerelle.errors import Failure, Kind
from passerelle.http1.head import RequestHead

RETRY_AFTER: Final = 60
"""When clients may try again, in seconds."""


def refuse_for_maintenance(
    exchange: ActionExchange, head: RequestHead, path: bytes, params: Mapping[str, bytes]
) -> None:
    """Refuse a request to a route in maintenance.

    :raises Failure: always.
    """
    failure = Failure(Kind.MAINTENANCE)
    failure.retry_after = RETRY_AFTER
    raise failure
