"""Changes that are not made, and why."""

from __future__ import annotations


class ChangeRefused(Exception):
    """A change that was not made; ``problems`` are lines for people, ``status`` is what the admin port answers."""

    status = 409

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NotFound(ChangeRefused):
    """There is nothing of that name."""

    status = 404


class InvalidChange(ChangeRefused):
    """What was asked for means nothing."""

    status = 400
