"""Takes API keys out of the query, where the configuration has them there."""

from __future__ import annotations

from passerelle.config.models.config import Config
from passerelle.gateway.query_keys import QueryKeyHandler
from passerelle.http1.interfaces import RequestHandler


def take_query_keys(config: Config, handler: RequestHandler) -> RequestHandler:
    """Return ``handler``, behind another that takes keys out of the query if the configuration has them there."""
    if config.keys is None or config.keys.query is None:
        return handler
    return QueryKeyHandler(handler, config.keys.query)
