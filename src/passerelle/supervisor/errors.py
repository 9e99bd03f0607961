"""Changes that are not made, and why."""

from __future__ import annotations


class Refused(Exception):
    """A change that was not made; ``problems`` are lines for people, ``status`` is what the admin port answers."""

    status = 409

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Missing(Refused):
    """There is nothing of that name."""

    status = 404


class Invalid(Refused):
    """What was asked for means nothing."""

    status = 400
