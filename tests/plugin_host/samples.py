"""Plugins of the tests. ``EVENTS`` holds what happened, and ``GATE`` what plugins wait for."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from passerelle.plugins import (
    Allow,
    Headers,
    Refuse,
    Request,
    RequestChange,
    Response,
    ResponseChange,
)

EVENTS: list[str] = []
GATE = threading.Event()
SEEN: list[Request] = []
RESPONSES: list[Response] = []


def by_header(request: Request) -> Refuse | None:
    """Admit requests with X-Key."""
    return None if request.headers.get("x-key") else Refuse(403, reason="no key")


async def by_header_at_once(request: Request) -> Refuse | None:
    return None if request.headers.get("x-key") else Refuse(403)


async def by_header_later(request: Request) -> Refuse | None:
    await asyncio.sleep(0)
    return None if request.headers.get("x-key") else Refuse(403)


def record(request: Request) -> None:
    SEEN.append(request)


def see_query(request: Request) -> Refuse | None:
    return Refuse(403) if request.query == "evil=1" else None


def nothing_read(request: Request) -> None:
    return None


def identify(request: Request) -> Allow:
    name = request.headers["x-user"]
    return Allow(consumer=name, scopes=("read",), headers={"X-Tenant": f"t-{name}"})


def answer(request: Request) -> Refuse:
    """Refuse with the status in the query."""
    status, _, rest = request.query.partition("&")
    if rest == "body":
        return Refuse(int(status), {"Content-Type": "text/plain", "X-Why": "because"}, b"no entry")
    return Refuse(int(status), {"Location": "/login"} if status == "302" else {"Retry-After": "9"})


def fail(request: Request, response: Response | None = None) -> Any:
    raise ValueError("secret-detail")


def leave(request: Request) -> Any:
    sys.exit(3)


async def leave_later(request: Request) -> Any:
    await asyncio.sleep(0)
    raise SystemExit(3)


def wrong(request: Request, response: Response | None = None) -> Any:
    return "yes"


def hang(request: Request, response: Response | None = None) -> Any:
    GATE.wait(20)


async def hang_later(request: Request) -> Any:
    try:
        await asyncio.sleep(20)
    finally:
        EVENTS.append("cancelled")


def undeclared(request: Request) -> Allow:
    return Allow(headers={"X-Other": "1"})


def add_fields(request: Request) -> RequestChange:
    return RequestChange({"X-Tenant": ["a", "b"]}, ["Cookie"], "q=2")


def unchanged(request: Request) -> None:
    return None


def drop_query(request: Request) -> RequestChange:
    return RequestChange(query="")


def query_by_user(request: Request) -> RequestChange:
    return RequestChange(query=f"user={request.headers['x-user']}")


def tag(request: Request, response: Response) -> ResponseChange:
    RESPONSES.append(response)
    return ResponseChange(set_headers={"X-Filtered": str(response.status)}, remove_headers=["X-Internal"])


async def tag_later(request: Request, response: Response) -> ResponseChange:
    await asyncio.sleep(0)
    return ResponseChange(set_headers={"X-Filtered": "later"})


def greet(request: Request, response: Response) -> ResponseChange:
    """Replace the body by one for the client."""
    RESPONSES.append(response)
    name = request.headers.get("x-user", "guest")
    return ResponseChange(status=203, body=(response.body or b"").upper() + name.encode())


def replace_body(request: Request, response: Response) -> ResponseChange:
    return ResponseChange(body=b"mine")


def wait_for_gate(request: Request, response: Response) -> None:
    EVENTS.append("filter runs")
    GATE.wait(20)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str
    limit: int = 3


class Counted:
    """A guard with settings and hooks. It counts its calls."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self.key = settings.key
        self.calls = 0
        EVENTS.append(f"made {self.key}")

    def start(self) -> None:
        EVENTS.append(f"started {self.key}")

    async def stop(self) -> None:
        EVENTS.append(f"stopped {self.key}")

    def __call__(self, request: Request) -> Allow:
        self.calls += 1
        return Allow(headers={"X-Calls": str(self.calls)})


class TagsUntilStopped:
    """A filter of responses that is of no use after its hook ``stop``."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.open = True

    def __call__(self, request: Request, response: Response) -> ResponseChange:
        if not self.open:
            raise RuntimeError("stopped")
        return ResponseChange(set_headers={"X-Tag": "filtered"}, body=response.body and response.body + b"!")

    def stop(self) -> None:
        self.open = False
        EVENTS.append("stopped")


class Loose:
    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    async def __call__(self, request: Request) -> Allow:
        return Allow(headers={"X-Calls": str(self.settings.get("n"))})


class Plain:
    def __call__(self, request: Request) -> None:
        return None


class CannotStart:
    def start(self) -> None:
        raise OSError("no database")

    def __call__(self, request: Request) -> None:
        return None


class StartsSlowly:
    def start(self) -> None:
        EVENTS.append("start runs")
        GATE.wait(20)
        EVENTS.append("started")

    def stop(self) -> None:
        EVENTS.append("stopped")

    def __call__(self, request: Request) -> None:
        return None


class NotCallable:
    pass


def two(request: Request, more: int) -> None:
    return None


NUMBER = 3

__all__ = ["Headers"]
