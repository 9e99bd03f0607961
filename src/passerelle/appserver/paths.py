"""Paths of requests as applications receive them."""

from __future__ import annotations

import re
from urllib.parse import unquote

_split = re.compile("%2F", re.IGNORECASE).split


def decode_path(path: str, encoding: str) -> str:
    """Decode the escapes of ``path`` except encoded slashes, which stay ``%2F``.

    The segments of the result are those of ``path``, so an application sees the segments that the gateway has routed
    and guarded.
    """
    return "%2F".join([unquote(part, encoding) for part in _split(path)])
