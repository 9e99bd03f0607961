"""The rollout of a split: its steps, and when the new service counts as worse than the old one."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.units import PERCENT, Duration, duration_text, percent_text
from passerelle.config.models.values import WholeNumber
from passerelle.config.reading.wording import describe
from passerelle.crossing.rollout import ALL, Plan, ShadowStep, Step

_MOST_STEPS: Final = 50


def _per_mille(share: float) -> float:
    if share <= 0 or abs(share * ALL - round(share * ALL)) > 1e-9:
        raise ValueError(f"found {share:.10g} of the users; a share is a multiple of 0.1%, from 0.1% to 100%")
    return share


def _part(share: float) -> float:
    if not 0 < share < 1:
        raise ValueError(f"found {share:.0%}; allowed is a percentage above 0% and below 100%")
    return share


def _ratio(found: object) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not 1.1 <= found <= 100:
        raise ValueError(f"found {describe(found)}; allowed is a number from 1.1 to 100")
    return float(found)


_PERCENT_SCHEMA = WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"})
Share = Annotated[float, PERCENT, AfterValidator(_per_mille), _PERCENT_SCHEMA, Takes("percentage")]
"""A share of the users: a multiple of 0.001, at most 1."""
Part = Annotated[float, PERCENT, AfterValidator(_part), _PERCENT_SCHEMA, Takes("percentage")]


class RolloutStep(Model):
    """A step: a share of the users, and what is needed before the next one. A percentage is a step with defaults."""

    share: Share = Field(description="The share of the users that the new service has.")
    at_least: Duration | None = Field(
        default=None, description="Shortest time of the step; by default that of the rollout."
    )
    requests: Annotated[int, WholeNumber(1, 1_000_000_000)] | None = Field(
        default=None, description="Fewest requests of the new service; by default those of the rollout."
    )

    @model_validator(mode="before")
    @classmethod
    def _percentage(cls, found: Any) -> Any:
        return found if isinstance(found, dict | RolloutStep) else {"share": found}


class RolloutShadow(Model):
    """The comparisons before the first step, by the `shadow` of the route."""

    comparisons: Annotated[int, WholeNumber(1, 1_000_000_000)] = Field(
        default=1000, description="Fewest responses of the new service that are compared."
    )
    differences: Part = Field(
        default=0.001,
        description="Largest rate of responses that differ; it must be below with a confidence of 95 %. Failed shadow "
        "requests count as different.",
    )


def _steps(found: object) -> object:
    if isinstance(found, str):
        return [found]
    return found


class Rollout(Model):
    """How users move from the service of the route to the other one of its `split`, step by step."""

    shadow: Annotated[RolloutShadow, Takes("[mapping](#shadow-of-a-rollout)")] | None = Field(
        default=None,
        description="What the `shadow` of the route must find before the first step; by default there is no such step.",
    )
    steps: Annotated[
        tuple[RolloutStep, ...], BeforeValidator(_steps), Takes("list of percentages or [steps](#a-step-of-a-rollout)")
    ] = Field(
        default=tuple(RolloutStep.model_construct(share=share) for share in (0.01, 0.05, 0.25, 0.5, 1.0)),
        min_length=1,
        max_length=_MOST_STEPS,
        description="The shares of the users that the new service has, one after the other; by default 1 %, 5 %, 25 %, "
        "50 % and 100 %.",
    )
    at_least: Duration = Field(default=600.0, description="Shortest time of a step.")
    requests: Annotated[int, WholeNumber(1, 1_000_000_000)] = Field(
        default=100, description="Fewest requests of the new service in a step."
    )
    alpha: Part = Field(
        default=0.05,
        description="Probability that a new service which is no worse is rolled back, over the whole rollout.",
    )
    failures: Annotated[int, WholeNumber(1, 1_000_000)] = Field(
        default=5,
        description="Failed requests of the new service that end the rollout, if they are at least half of its "
        "requests.",
    )
    slower: Annotated[
        float, BeforeValidator(_ratio), WithJsonSchema({"type": "number", "minimum": 1.1}), Takes("number, 1.1 to 100")
    ] = Field(
        default=1.5,
        description="A request is slow if it takes more than this many times the median of the old service.",
    )

    @model_validator(mode="after")
    def _grow(self) -> Rollout:
        shares = [step.share for step in self.steps]
        for before, after in pairwise(shares):
            if after <= before:
                raise ValueError(f"found a step of {after:.4g} after one of {before:.4g}; each share exceeds the last")
        if shares[-1] != 1.0:
            raise ValueError(f"found {shares[-1]:.1%} as the last step; the last one is 100%")
        return self

    @property
    def plan(self) -> Plan:
        """The plan for :mod:`passerelle.crossing.rollout`."""
        steps = tuple(
            Step(
                round(step.share * ALL),
                self.at_least if step.at_least is None else step.at_least,
                self.requests if step.requests is None else step.requests,
            )
            for step in self.steps
        )
        shadow = ShadowStep(self.shadow.comparisons, self.shadow.differences) if self.shadow is not None else None
        return Plan(steps, shadow, self.alpha, self.failures)

    def __str__(self) -> str:
        first = f"{self.shadow.comparisons} comparisons, then " if self.shadow is not None else ""
        shares = ", ".join(percent_text(step.share) for step in self.steps)
        return f"{first}{shares} of the users, each for at least {duration_text(self.at_least)}"
