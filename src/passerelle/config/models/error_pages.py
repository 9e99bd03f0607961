"""Pages for errors of the gateway, by status."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from passerelle.config.models.base import Takes
from passerelle.config.models.values import File, Text


def _status(text: str) -> str:
    if re.fullmatch(r"[45](?:[0-9]{2}|xx)", text):
        return text
    raise ValueError(f"found {text!r}; allowed is a status from 400 to 599 such as 404, or 4xx, or 5xx")


ErrorStatus = Annotated[Text, AfterValidator(_status), Takes("status")]
ErrorPages = Annotated[dict[ErrorStatus, File], Takes("mapping of statuses to files")]

MOST = 1024 * 1024
"""The largest page in bytes."""
