"""Sticky sessions: a client that comes back with a cookie goes to the instance it had before, while that is up.

The cookie's value is a *token*: a keyed digest of the service's and the instance's name. It tells a client nothing (no
address, no number of instances), means nothing to another service, and cannot be computed without the secret. It need
not be believed either: the most a guessed or stolen token can do is choose among instances that may be picked anyway,
and a token that is unknown, or of an instance that is down, draining or already tried, is the same as none.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from passerelle.balancing import instance as _instance
from passerelle.balancing.instance import Instance, Status
from passerelle.balancing.policies import PickerNode


class Sticky:
    """A node in front of another: the ``key`` of a pick is the token, and what is not decided by it the other decides.

    Whoever answers compares the instance that served with the token that came, and sets the cookie if they differ.
    """

    __slots__ = ("_by_token", "_fresh", "_inner", "_secret", "parent")

    def __init__(self, inner: PickerNode, secret: bytes) -> None:
        """``secret``: 1 to 64 bytes, the same in all workers and replicas (the service's name belongs in it)."""
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
                self._by_token = {self.token(instance): instance for instance in self._inner.members}
                self._fresh = True
            chosen = self._by_token.get(key)
            if chosen is not None and chosen.up and chosen not in exclude:
                return chosen
        return self._inner.pick(exclude)

    def token(self, instance: Instance) -> bytes:
        """The value of the cookie for ``instance``: 22 hexadecimal digits."""
        return blake2b(instance.identity.encode(), digest_size=11, key=self._secret).hexdigest().encode()

    def changed(self) -> None:
        """Something below changed."""
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
    """The value of cookie ``name`` in the ``Cookie`` field values, or None (RFC 6265 §4.2); the first if repeated."""
    for value in values:
        for pair in value.split(b";"):
            found, equals, content = pair.strip(b" \t").partition(b"=")
            if equals and found == name:
                return content
    return None


def set_cookie(name: bytes, token: bytes, *, secure: bool, max_age: int | None = None) -> bytes:
    """The value of a ``Set-Cookie`` field (RFC 6265 §4.1). ``max_age`` in seconds; None is until the browser closes."""
    value = b"%b=%b; Path=/; HttpOnly; SameSite=Lax" % (name, token)
    if max_age is not None:
        value += b"; Max-Age=%d" % max_age
    return value + b"; Secure" if secure else value
