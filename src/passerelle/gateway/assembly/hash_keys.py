"""Functions that return the key of a request for the ``hash`` policy or for sticky cookies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from passerelle.balancing.sticky import read_cookie
from passerelle.config.models.balance import Balance
from passerelle.http1.head import RequestHead

if TYPE_CHECKING:
    from passerelle.upstream.service import KeyFunction


def key_of(balance: Balance) -> KeyFunction | None:
    """Return the function for the configured source of keys, or None where the policy uses no keys."""
    if balance.sticky is not None:
        return _cookie(balance.sticky.cookie.encode("ascii"))
    by = balance.by
    if by is None:
        return None
    if by.source == "header":
        return _header(by.name.encode("ascii"))
    if by.source == "cookie":
        return _cookie(by.name.encode("ascii"))
    if by.source == "param":
        return _parameter(by.name)
    return _address


def _header(name: bytes) -> KeyFunction:
    def key(head: RequestHead, parameters: Mapping[str, bytes], peer: bytes) -> bytes | None:
        return head.get(name)

    return key


def _cookie(name: bytes) -> KeyFunction:
    def key(head: RequestHead, parameters: Mapping[str, bytes], peer: bytes) -> bytes | None:
        return read_cookie((field.value for field in head.named(b"cookie")), name)

    return key


def _parameter(name: str) -> KeyFunction:
    def key(head: RequestHead, parameters: Mapping[str, bytes], peer: bytes) -> bytes | None:
        return parameters.get(name)

    return key


def _address(head: RequestHead, parameters: Mapping[str, bytes], peer: bytes) -> bytes | None:
    return peer
