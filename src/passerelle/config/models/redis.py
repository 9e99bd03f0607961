"""The address of a Redis."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.addresses import Address, split_address
from passerelle.config.models.base import Takes
from passerelle.config.reading.wording import describe


class Redis(BaseModel):
    """A Redis, or the Sentinels that watch it. ``url`` may contain a password and must not be shown; the rest may be.

    ``address`` is that of the Redis or of the first Sentinel. ``sentinels`` are empty without Sentinel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    url: str
    address: Address
    sentinels: tuple[Address, ...] = ()

    @property
    def where(self) -> str:
        """The addresses."""
        return ",".join(map(str, self.sentinels or (self.address,)))

    def __repr__(self) -> str:
        return f"Redis({self.where})"

    __str__ = __repr__


_EXAMPLE = "redis://127.0.0.1:6379/0"
_SENTINEL = "+sentinel"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}").fullmatch


def parse_redis(found: object) -> object:
    """Parse ``redis://[user:password@]host[:port][/database]``, or ``rediss://`` for TLS.

    With Sentinel, it is ``redis+sentinel://[user:password@]host[:port][,host[:port]…]/name[/database]``. The default
    ports are 6379 and 26379, the default database is 0. ``off`` is None. Error messages never show what may be a
    password.
    """
    if isinstance(found, Redis):
        return found
    if is_off(found):
        return None
    allowed = f"allowed is redis://host:port/database, such as {_EXAMPLE}"
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; {allowed}")
    scheme, separator, rest = found.partition("://")
    if not separator:
        near = "" if "@" in found else f"; did you mean redis://{found}?"
        raise ValueError(f"found an address without a scheme; {allowed}{near}")
    if scheme.removesuffix(_SENTINEL) not in ("redis", "rediss"):
        raise ValueError(f"found scheme {scheme!r}; {allowed}, or rediss:// for TLS")
    if any(c in rest for c in "?#"):
        raise ValueError(f"found an address with a query or fragment; {allowed}; in a password write them %3F and %23")
    authority, _, database = rest.partition("/")
    credentials, at, host = authority.rpartition("@")
    if at and not credentials.partition(":")[2]:
        raise ValueError(f"found a user name without a password; {allowed}, or redis://user:password@host:port/0")
    if scheme.endswith(_SENTINEL):
        name, _, database = database.partition("/")
        allowed = "allowed is redis+sentinel://host:port,host:port/name/database"
        if not _NAME(name):
            raise ValueError(f"found {name!r} as the name of the master; {allowed}")
        sentinels = tuple(split_address(node, "10.0.0.1:26379", 26379, 1) for node in host.split(","))
        place = f"{','.join(map(str, sentinels))}/{name}"
    else:
        sentinels = ()
        place = str(split_address(host, _EXAMPLE, default_port=6379, lowest_port=1))
    if database and not (database.isascii() and database.isdigit() and len(database) <= 5):
        raise ValueError(f"found database {database!r}; a database is a number; {allowed}")
    address = sentinels[0] if sentinels else split_address(host, _EXAMPLE, default_port=6379, lowest_port=1)
    return Redis(url=f"{scheme}://{credentials}{at}{place}/{database or 0}", address=address, sentinels=sentinels)


def is_off(found: object) -> bool:
    """Return whether a value of the file states that there is no Redis."""
    return found is False or found == "off"


OptionalRedis = Annotated[
    Redis | None,
    BeforeValidator(parse_redis),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(rediss?(\+sentinel)?://|off$)", "examples": ["redis://127.0.0.1:6379/0"]}
    ),
    Takes("`redis://host:port/database` or `off`"),
]
