"""The adaptive concurrency limit of a service."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from passerelle.config.models.base import Model
from passerelle.config.models.units import Percent
from passerelle.config.models.values import WholeNumber
from passerelle.config.reading.wording import describe


class Concurrency(Model):
    """A limit on the requests in flight that adapts to the latency. `adaptive` selects the defaults."""

    min: Annotated[int, WholeNumber(1, 100_000)] = Field(default=2, description="Lowest value of the limit.")
    max: Annotated[int, WholeNumber(1, 100_000)] = Field(default=1000, description="Highest value of the limit.")
    initial: Annotated[int, WholeNumber(1, 100_000)] | None = Field(
        default=None, description="Limit at the start; by default 20, or the nearest value that `min` and `max` allow."
    )
    tolerance: Percent = Field(
        default=0.5, description="How much longer than without a queue responses may take before the limit is lowered."
    )

    @property
    def first(self) -> int:
        """The limit at the start."""
        return self.initial if self.initial is not None else min(max(20, self.min), self.max)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        if found == "adaptive":
            return {}
        if not isinstance(found, dict | Concurrency):
            raise ValueError(f"found {describe(found)}; allowed: adaptive, or a mapping")
        return found
