"""The number of instances of a service that passerelle starts: fixed, or a range that follows the load."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from passerelle.config.models.base import Model
from passerelle.config.models.values import WholeNumber
from passerelle.config.reading.wording import describe

MOST_INSTANCES = 1000


class Instances(Model):
    """The range within which the number of instances follows the load. A number is a fixed number."""

    min: Annotated[int, WholeNumber(1, MOST_INSTANCES)] = Field(
        default=1, description="Fewest instances, and the number at the start."
    )
    max: Annotated[int, WholeNumber(1, MOST_INSTANCES)] = Field(description="Most instances.")
    target_in_flight: Annotated[int, WholeNumber(1, 10_000)] = Field(
        default=3,
        description="Requests in flight that an instance should have on average. By default, a WSGI `app` has four "
        "threads.",
    )

    @property
    def scales(self) -> bool:
        """Whether the number follows the load."""
        return self.min < self.max

    @model_validator(mode="before")
    @classmethod
    def _number(cls, found: Any) -> Any:
        if isinstance(found, dict | Instances):
            return found
        if not isinstance(found, int) and not str(found).isdigit():
            allowed = f"a whole number from 1 to {MOST_INSTANCES}, or a mapping with min and max"
            raise ValueError(f"found {describe(found)}; allowed: {allowed}")
        number = WholeNumber(1, MOST_INSTANCES).check(found)
        return {"min": number, "max": number}
