"""Which side of a split a request takes, and why: for ``passerelle explain``. The splitter of the gateway decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from passerelle.config.models.config import Config
from passerelle.config.models.split import Split
from passerelle.gateway.assembly.splits import SplitFactory
from passerelle.http1.field_lines import FieldLine
from passerelle.security.guard import GuardedCall
from passerelle.security.identity import Identity


@dataclass(frozen=True, slots=True)
class SplitUser:
    """The user of a request, as far as it is known: header fields (names in lower case), address, consumer, roles."""

    fields: Sequence[tuple[bytes, bytes]]
    address: bytes | None
    consumer: str | None
    roles: Sequence[str] = ()


class _Fields:
    """The header fields as guards see them."""

    def __init__(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self.lines = [FieldLine(name, value, b"%b: %b" % (name, value)) for name, value in fields]

    def get(self, name: bytes) -> bytes | None:
        return next((line.value for line in self.lines if line.name == name), None)

    def named(self, name: bytes) -> list[FieldLine]:
        return [line for line in self.lines if line.name == name]


def explain_side(config: Config, name: str, service: str, split: Split, user: SplitUser) -> dict[str, Any]:
    """Return the side of ``user`` by the weights of the file (None if it is not known), and the reason.

    ``name`` is that of the split, ``service`` is its old side.
    """
    fields = _Fields(user.fields)
    call = GuardedCall(b"GET", b"/", user.address or b"", fields)
    if user.consumer is not None or user.roles:
        call.identity = Identity(user.consumer or "", (), "", claims={"roles": list(user.roles)})
    splitter = SplitFactory(config, {}).splitter(name, service, split)
    choice = splitter.explain(fields, call, call.address)
    weights = split.sides(service)
    side: str | None = list(weights)[choice.side]
    if choice.decided_by == "override":
        return {"side": side, "reason": "the override of the request names it"}
    refused = "" if choice.named is None else _refusal(choice.named, weights)
    share = f"the share of {weights[side or service] / 10:g}%"
    if weights[side or service] == sum(weights.values()):
        reason = "all users have it"
    elif choice.decided_by == "user":
        reason = f"{_what(split)} falls into {share}"
    elif user.address is not None:
        absent = "" if split.by.source == "address" else f"without {_what(split)} the address counts: "
        reason = f"{absent}it falls into {share}" if absent else f"the address falls into {share}"
    else:
        side, reason = None, f"it depends on {_what(split)}: give {_option(split)}"
    return {"side": side, "reason": reason + refused}


def _refusal(named: bytes, weights: dict[str, int]) -> str:
    shown = named.decode("utf-8", "backslashreplace")
    if shown not in weights:
        return f"; the override names {shown!r}, which is no side"
    return f"; the override names {shown!r}, but this client has none of its roles and addresses"


def _what(split: Split) -> str:
    by = split.by
    return f"the {by.source} {by.name}" if by.name else f"the {by.source}"


def _option(split: Split) -> str:
    options = {"consumer": "--as", "address": "--from", "session": "--cookie", "cookie": "--cookie", "header": "-H"}
    option = options[split.by.source]
    return option if option == "--from" else f"{option}, or --from for a request without it"
