"""Estimates of queueing theory: how long requests take with more servers (threads or processes)."""

from __future__ import annotations

from math import ceil

COMFORTABLE = 0.8
"""The utilisation that a number of servers is chosen for."""


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that a request has to wait in M/M/c; ``load`` is rate × service time, in servers."""
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang B, by its recursion: no powers and factorials that overflow
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    use = load / servers
    return blocked / (1.0 - use + use * blocked)


def mean_wait(servers: int, load: float, service_time: float) -> float:
    """Return the mean wait in M/M/c in seconds. :raises ValueError: if there is no steady state."""
    if load >= servers:
        raise ValueError("the load is not below the number of servers")
    return erlang_c(servers, load) * service_time / (servers - load)


def wanted_servers(in_flight: float, load: float) -> int:
    """Return how many servers a load needs: all of ``in_flight`` requests at the same time, and room for variation."""
    return max(1, ceil(max(in_flight, load) / COMFORTABLE))


def time_with(servers: int, in_flight: float, load: float, service_time: float) -> float:
    """Estimate the mean time of a request with other ``servers``.

    A saturated system is closed: its clients wait, so the number of requests in flight stays (asymptotic bound of
    closed networks). Otherwise requests arrive at the same rate as before (M/M/c).
    """
    closed = service_time * max(1.0, in_flight / servers)
    if load >= servers:
        return closed
    return max(closed, service_time + mean_wait(servers, load, service_time))
