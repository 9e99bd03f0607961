"""Server-sent events of the admin port, for the commands that follow them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from passerelle.cli.admin_client import Destination, TokenRefused, connect

PAUSE = 1.0
"""Seconds until a stream that was lost is requested again."""
_SILENCE = 40.0  # seconds without a byte after which the stream counts as lost; it has a comment every 15 s


def messages(destination: Destination, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and the data of each message of the stream at ``path`` until the connection is lost.

    :raises TokenRefused: if the admin port demands another token.
    :raises ValueError: if the response is no stream.
    :raises OSError: if the connection fails; an ``http.client.HTTPException`` if the response is malformed.
    """
    connection = connect(destination, "GET", path, _SILENCE, Accept="text/event-stream")
    try:
        response = connection.getresponse()
        if response.status == 401:
            raise TokenRefused
        if response.headers.get_content_type() != "text/event-stream":
            raise ValueError(f"found status {response.status} {response.reason}")
        name = ""
        for line in iter(response.readline, b""):
            if line.startswith(b"event:"):
                name = line[6:].strip().decode("ascii", "replace")
            elif line.startswith(b"data:"):
                yield name, orjson.loads(line[5:])
    finally:
        connection.close()
