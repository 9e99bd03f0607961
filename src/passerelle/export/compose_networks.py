"""Networks of containers, with the fixed addresses of nginx and of the gateways."""

from __future__ import annotations

import ipaddress
from typing import Any

SUBNET = ipaddress.IPv4Network("10.213.84.0/24")
_PROXY, _FIRST = 10, 11  # places of nginx and of the first gateway


class Networks:
    """The network of nginx and the gateways, and the next one, of gateways and services."""

    def __init__(self, front: ipaddress.IPv4Network) -> None:
        self.front = front
        self._services = ipaddress.IPv4Network((int(front.broadcast_address) + 1, front.prefixlen))

    @property
    def proxy(self) -> str:
        """The address of nginx."""
        return str(self.front[_PROXY])

    def gateway(self, number: int) -> str:
        """Return the address of a gateway, as nginx sees it."""
        return str(self.front[_FIRST + number])

    def inner(self, number: int) -> str:
        """Return the address of a gateway as services see it, which believe its header fields about clients."""
        return str(self._services[_FIRST + number])

    def described(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return both networks for Compose."""
        return _described(self.front), _described(self._services)


def _described(network: ipaddress.IPv4Network) -> dict[str, Any]:
    """Describe a network whose lower half is for fixed addresses."""
    _, upper = network.subnets()
    return {"ipam": {"config": [{"subnet": str(network), "ip_range": str(upper), "gateway": str(network[1])}]}}
