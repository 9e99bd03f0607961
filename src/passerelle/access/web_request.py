"""Requests to servers of others, in a thread: bounded in time and size, without redirects."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException

# Longest duration of a request (seconds), and the largest response (bytes).
SECONDS = 5.0
BYTES = 1024 * 1024


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def fetch(
    url: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    seconds: float = SECONDS,
    most: int = BYTES,
) -> tuple[int, bytes]:
    """Send a GET, or a POST with ``body``; return status and body of the response.

    :raises OSError: if there is no response within ``seconds``.
    :raises ValueError: if it has more than ``most`` bytes.
    """
    deadline = time.monotonic() + seconds
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - the address is that of the configuration
    try:
        try:
            response = urllib.request.build_opener(_Stay).open(request, timeout=seconds)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            pieces = bytearray()
            while piece := response.read1(65536):
                pieces += piece
                if len(pieces) > most:
                    raise ValueError(f"more than {most} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete within {seconds:g} s")
            return response.status, bytes(pieces)
    except HTTPException as error:
        raise OSError(f"malformed response: {type(error).__name__}") from None
