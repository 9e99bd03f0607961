"""Errors of changes that are refused."""

from __future__ import annotations


class ChangeRefused(Exception):
    """A change was not made. ``problems`` are the reasons, a line each; ``status`` is that of the admin port."""

    status = 409

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NotFound(ChangeRefused):
    """There is no service or instance of that name."""

    status = 404


class InvalidChange(ChangeRefused):
    """The request for the change is invalid."""

    status = 400
