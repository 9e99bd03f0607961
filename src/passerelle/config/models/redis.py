"""The address of a Redis."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.addresses import Address, split_address
from passerelle.config.models.base import Takes
from passerelle.config.reading.wording import describe


class Redis(BaseModel):
    """A Redis. ``url`` may contain a password and must not be shown; ``address`` may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    address: Address

    def __repr__(self) -> str:
        return f"Redis({self.address})"

    __str__ = __repr__


def parse_redis(found: object) -> object:
    """Parse ``redis://[user:password@]host[:port][/database]``, or ``rediss://`` for TLS.

    The default port is 6379, the default database 0. ``off`` is None. Error messages never show what may be a password.
    """
    if isinstance(found, Redis):
        return found
    if is_off(found):
        return None
    allowed = "allowed is redis://host:port/database, such as redis://127.0.0.1:6379/0"
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; {allowed}")
    scheme, separator, rest = found.partition("://")
    if not separator:
        near = "" if "@" in found else f"; did you mean redis://{found}?"
        raise ValueError(f"found an address without a scheme; {allowed}{near}")
    if scheme not in ("redis", "rediss"):
        raise ValueError(f"found scheme {scheme!r}; {allowed}, or rediss:// for TLS")
    if any(c in rest for c in "?#"):
        raise ValueError(f"found an address with a query or fragment; {allowed}; in a password write them %3F and %23")
    authority, _, database = rest.partition("/")
    credentials, at, host = authority.rpartition("@")
    if at and not credentials.partition(":")[2]:
        raise ValueError(f"found a user name without a password; {allowed}, or redis://user:password@host:port/0")
    if database and not (database.isascii() and database.isdigit() and len(database) <= 5):
        raise ValueError(f"found database {database!r}; a database is a number; {allowed}")
    address = split_address(host, "redis://127.0.0.1:6379/0", default_port=6379, lowest_port=1)
    return Redis(url=f"{scheme}://{credentials}{at}{address}/{database or 0}", address=address)


def is_off(found: object) -> bool:
    """Return whether a value of the file states that there is no Redis."""
    return found is False or found == "off"


OptionalRedis = Annotated[
    Redis | None,
    BeforeValidator(parse_redis),
    WithJsonSchema({"type": "string", "pattern": "^(rediss?://|off$)", "examples": ["redis://127.0.0.1:6379/0"]}),
    Takes("`redis://host:port/database` or `off`"),
]
