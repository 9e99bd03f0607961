"""Chooses the side of a split for each request (see :mod:`passerelle.crossing.sides`).

A user is what the configuration states: a consumer, a session, a cookie, a header or an address. A request without it
is a user by its address. So that no client can choose its side, the override for testers holds only for the roles and
addresses that the configuration lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from passerelle.balancing.sticky import read_cookie
from passerelle.crossing.sides import Sides, position

if TYPE_CHECKING:
    from passerelle.security.addresses import AddressSet
    from passerelle.security.guard import FieldSource, GuardedCall

UserOf = Callable[["FieldSource", "GuardedCall | None"], bytes | None]
"""Returns what identifies the user of a request, or None where the request does not have it."""


class Choice(NamedTuple):
    """The number of a side, and what has decided; ``named`` is what an override names without an effect."""

    side: int
    decided_by: Literal["override", "user", "address"]
    named: bytes | None


class Override:
    """How testers choose their side: by a header or a cookie with the name of a side."""

    __slots__ = ("_clients", "_cookie", "_header", "_roles")

    def __init__(self, header: bytes | None, cookie: bytes | None, roles: frozenset[str], clients: AddressSet) -> None:
        """``header`` is in lower case. Clients with one of ``roles``, or an address in ``clients``, may choose."""
        self._header = header
        self._cookie = cookie
        self._roles = roles
        self._clients = clients

    def chosen(self, head: FieldSource, call: GuardedCall | None, address: bytes) -> bytes | None:
        """Return the name that the request gives, if its client may choose."""
        name = self.named(head)
        if name is None or not (self._clients.has(address) or self._has_role(call)):
            return None
        return name

    def named(self, head: FieldSource) -> bytes | None:
        """Return the name that the request gives."""
        name = head.get(self._header) if self._header is not None else None
        if name is None and self._cookie is not None:
            name = read_cookie((field.value for field in head.named(b"cookie")), self._cookie)
        return name

    def _has_role(self, call: GuardedCall | None) -> bool:
        if call is None or call.identity is None:
            return False
        roles = call.identity.claims.get("roles")
        return not self._roles.isdisjoint(
            [role for role in (roles if isinstance(roles, list | tuple) else [roles]) if isinstance(role, str)]
        )


class Splitter:
    """One split of a route, or of a part of a composition. Its weights change while requests are served."""

    __slots__ = ("_names", "_override", "_salt", "_sides", "_subscriber", "_user")

    def __init__(
        self,
        weights: Mapping[str, int],
        salt: bytes,
        user: UserOf | None,
        subscriber: Callable[[bytes], bytes],
        override: Override | None,
    ) -> None:
        """``user`` is None where users are addresses. ``subscriber`` returns what an address is counted as."""
        self._salt = salt
        self._user = user
        self._subscriber = subscriber
        self._override = override
        self._sides = Sides(weights)
        self._names: Final = {name.encode("ascii"): number for number, name in enumerate(weights)}

    @property
    def weights(self) -> dict[str, int]:
        """The weights in force, in per mille."""
        return self._sides.weights

    def set_weights(self, weights: Mapping[str, int]) -> None:
        """Put ``weights`` in force from the next request on, unless they are of other sides."""
        if list(weights) == list(self._sides.weights):
            self._sides = Sides(weights)

    def side(self, head: FieldSource, call: GuardedCall | None, address: bytes) -> int:
        """Return the number of the side that serves a request."""
        if self._override is not None and (name := self._override.chosen(head, call, address)) is not None:
            number = self._names.get(name)
            if number is not None:
                return number
        user = self._user(head, call) if self._user is not None else None
        return self._sides.of(position(self._salt, b"@" + self._subscriber(address) if user is None else user))

    def explain(self, head: FieldSource, call: GuardedCall | None, address: bytes) -> Choice:
        """Return the side of a request as :meth:`side` does, with what has decided."""
        number = self.side(head, call, address)
        if self._override is not None and self._override.chosen(head, call, address) in self._names:
            return Choice(number, "override", None)
        named = self._override.named(head) if self._override is not None else None
        has_user = self._user is not None and self._user(head, call) is not None
        return Choice(number, "user" if has_user else "address", named)
