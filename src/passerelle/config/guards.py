"""The part of the configuration that says who may ask, how often, and for what."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from passerelle.config.base import Model
from passerelle.config.units import RateText
from passerelle.config.values import Text, Whole

_HEADER = re.compile(r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


def one_or_more(found: object) -> object:
    """One value stands for a list of it."""
    return found if isinstance(found, list | tuple) else (found,)


def _by(text: str) -> str:
    if text == "address" or _HEADER(text):
        return text
    raise ValueError(f"found {text!r}; allowed: address, header:NAME")


class RateLimit(Model):
    """How often one client may ask."""

    rate: RateText = Field(description="Requests per second, minute, hour or day: `100/s`, `3/m`, `10000/d`.")
    burst: Annotated[int, Whole(1, 1_000_000_000)] | None = Field(
        default=None, description="Most requests at once; by default the number in `rate`."
    )
    by: Annotated[Text, AfterValidator(_by)] = Field(
        default="address",
        description="Who is counted: `address` (IPv6 by /64) or `header:NAME`.",
    )
    cost: Annotated[int, Whole(1, 1_000_000)] = Field(default=1, description="What a request of the route counts for.")
    dry_run: bool = Field(default=False, description="`true`: only count what would be refused.")

    @property
    def size(self) -> int:
        """The burst that holds."""
        return self.rate.number if self.burst is None else self.burst

    @property
    def label(self) -> str:
        """What the limit is called in the fields of answers."""
        return f"{self.rate} by {self.by.removeprefix('header:')}"
