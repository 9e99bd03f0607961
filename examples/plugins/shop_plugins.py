"""Plugins of a gateway: who the tenant is, which requests it may send, and what its responses show."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from passerelle.plugins import Allow, GuardResult, Refuse, Request, RequestChange, Response, ResponseChange


class TenantSettings(BaseModel):
    """``settings`` of the plugin in the configuration."""

    model_config = ConfigDict(extra="forbid")

    hosts: dict[str, str]
    suspended: frozenset[str] = frozenset()


class Tenants:
    """Guard: the host of a request names its tenant."""

    Settings = TenantSettings

    def __init__(self, settings: TenantSettings) -> None:
        self._settings = settings

    async def __call__(self, request: Request) -> GuardResult:
        """Admit requests of known tenants, and state the tenant to the service."""
        tenant = self._settings.hosts.get(request.host.partition(":")[0].lower())
        if tenant is None:
            return Refuse(404)
        if tenant in self._settings.suspended:
            return Refuse(402, reason=f"{tenant} is suspended")
        return Allow(consumer=tenant, headers={"X-Tenant": tenant})


async def without_tracking(request: Request) -> RequestChange | None:
    """Request filter: drop the parameters that campaigns add."""
    kept = [part for part in request.query.split("&") if not part.startswith("utm_")]
    query = "&".join(kept)
    return None if query == request.query else RequestChange(query=query)


def without_emails(request: Request, response: Response) -> ResponseChange | None:
    """Response filter: mask the values of `email` in JSON."""
    if response.body is None or not response.headers.get("content-type", "").startswith("application/json"):
        return None
    return ResponseChange(body=json.dumps(_masked(json.loads(response.body))).encode())


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: "***" if name == "email" else _masked(item) for name, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value
