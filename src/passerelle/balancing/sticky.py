"""Sticky sessions: a cookie sends a client to the same instance again as long as that is up.

The value of the cookie is a *token*, a keyed digest of the names of the service and the instance. A token reveals
nothing to the client (no address, no number of instances), is invalid for another service, and cannot be computed
without the secret. A token need not be trusted either: a guessed or stolen token can only choose among instances that
may be picked anyway. A token that is unknown, or of an instance that is down, draining or already tried, is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from passerelle.balancing import instance as _instance
from passerelle.balancing.instance import Instance, Status
from passerelle.balancing.policies import PickerNode


class Sticky:
    """A node in front of another one. The ``key`` of a pick is a token; without a valid one the other node picks.

    The caller compares the token of the instance that served the request with the one received, and sets the cookie if
    they differ.
    """

    __slots__ = ("_by_token", "_fresh", "_inner", "_secret", "parent")

    def __init__(self, inner: PickerNode, secret: bytes) -> None:
        """``secret`` has 1 to 64 bytes, equal in all workers and replicas, but different for each service."""
        if not 1 <= len(secret) <= 64:
            raise ValueError("a secret has 1 to 64 bytes")
        self.parent: PickerNode | None = None
        self._inner = inner
        self._secret = secret
        self._by_token: dict[bytes, Instance] = {}
        self._fresh = False
        inner.parent = self

    acquire = staticmethod(_instance.acquire)
    release = staticmethod(_instance.release)

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`.policies.PickerNode.pick`."""
        if key is not None:
            if not self._fresh:
                # A process and the one that replaces it share a place: the one that is up has the token.
                ordered = sorted(self._inner.members, key=lambda instance: instance.up)
                self._by_token = {self.token(instance): instance for instance in ordered}
                self._fresh = True
            chosen = self._by_token.get(key)
            if chosen is not None and chosen.up and chosen not in exclude:
                return chosen
        return self._inner.pick(exclude)

    def token(self, instance: Instance) -> bytes:
        """Return the value of the cookie for ``instance``, 22 hexadecimal digits."""
        return blake2b(instance.place.encode(), digest_size=11, key=self._secret).hexdigest().encode()

    def changed(self) -> None:
        """Compute the tokens again at the next pick: a node below has changed."""
        self._fresh = False
        if self.parent is not None:
            self.parent.changed()

    @property
    def status(self) -> Status:
        """See :class:`.policies.PickerNode`."""
        return self._inner.status

    @property
    def size(self) -> int:
        """See :class:`.policies.PickerNode`."""
        return self._inner.size

    @property
    def up(self) -> int:
        """See :class:`.policies.PickerNode`."""
        return self._inner.up

    @property
    def members(self) -> tuple[Instance, ...]:
        """See :class:`.policies.PickerNode`."""
        return self._inner.members


def read_cookie(values: Iterable[bytes], name: bytes) -> bytes | None:
    """Return the first cookie ``name`` in the values of ``Cookie`` fields, or None (RFC 6265 §4.2)."""
    for value in values:
        for pair in value.split(b";"):
            found, equals, content = pair.strip(b" \t").partition(b"=")
            if equals and found == name:
                return content
    return None


def set_cookie(name: bytes, token: bytes, *, secure: bool, max_age: int | None = None) -> bytes:
    """Return the value of a ``Set-Cookie`` field (RFC 6265 §4.1). ``max_age`` in seconds; None for a session cookie."""
    value = b"%b=%b; Path=/; HttpOnly; SameSite=Lax" % (name, token)
    if max_age is not None:
        value += b"; Max-Age=%d" % max_age
    return value + b"; Secure" if secure else value
