"""Builds the settings of endpoints from the listeners of the configuration."""

from __future__ import annotations

from passerelle.config.models.config import Config
from passerelle.config.models.listeners import UNIX
from passerelle.gateway.endpoints import EndpointSettings


def endpoint_settings(config: Config) -> list[EndpointSettings]:
    """Return the settings of the sockets of each listener, in the order of the file."""
    found = []
    for listener in config.listen:
        status, peers = listener.https_redirect, listener.proxy_protocol
        redirect = (status, config.redirect_port(listener)) if status is not None else None
        networks = tuple(peer for peer in peers if not isinstance(peer, str)) if peers is not None else None
        found.append(EndpointSettings(config.is_secure(listener), redirect, networks, UNIX in (peers or ())))
    return found
