"""How an instance serves its application: the options of its command line."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol


class ServiceSettings(Protocol):
    """The keys of a service that are options of its application server."""

    interface: Literal["wsgi", "asgi"] | None
    threads: int | None
    streams: int | None
    max_requests: int | None
    max_requests_jitter: int | None
    worker_timeout: float | None
    grace: float | None
    on_start: str | None
    host: str


class ServerOptions(NamedTuple):
    """The options; None stands for the default of the server. Times are in seconds."""

    interface: str | None = None
    threads: int | None = None
    streams: int | None = None
    max_requests: int | None = None
    max_requests_jitter: int | None = None
    worker_timeout: float | None = None
    grace: float | None = None
    on_start: str | None = None
    keep_host: bool = False

    @classmethod
    def of(cls, service: ServiceSettings) -> ServerOptions:
        """Return the options of a service."""
        return cls(
            service.interface,
            service.threads,
            service.streams,
            service.max_requests,
            service.max_requests_jitter,
            service.worker_timeout,
            service.grace,
            service.on_start,
            service.host != "client",
        )

    def words(self) -> list[str]:
        """Return the words of the command line."""
        words: list[str] = []
        for name, value in self._asdict().items():
            flag = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(flag)
            elif value is not None and value is not False:
                words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        return words
