"""Which clients see where the time of their requests goes."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from pydantic import Field, create_model

from passerelle.config.models.addresses import Network
from passerelle.config.models.base import Model


class _Debug(Model):
    @property
    def clients(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The addresses of the key ``from``, which is no name in Python."""
        found: tuple[IPv4Network | IPv6Network, ...] = getattr(self, "from")
        return found


_FROM = Field(
    min_length=1,
    description="Clients with these addresses receive `Server-Timing`: that of services, and times of the gateway. "
    "All others receive neither.",
)

if TYPE_CHECKING:

    class Debug(_Debug):
        """Clients that see where the time of their requests goes."""

else:
    Debug = create_model(
        "Debug",
        __base__=_Debug,
        __module__=__name__,
        __doc__="Clients that see where the time of their requests goes.",
        **{"from": (tuple[Network, ...], _FROM)},
    )
