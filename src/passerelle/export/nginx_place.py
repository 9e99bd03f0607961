"""nginx in place of the gateway, for what nginx can do: routes, balancing, caching, limits, header fields.

A route whose guard nginx cannot have is closed: it responds 501, and is never open.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from passerelle.config.models.access_log import split_target
from passerelle.config.models.addresses import Address
from passerelle.config.problems import Finding
from passerelle.errors import TABLE
from passerelle.export.deployment import Deployment, RouteExport, ServiceExport
from passerelle.export.nginx_actions import Lose, write_types
from passerelle.export.nginx_coverage import IN_PLACE
from passerelle.export.nginx_headers import ResponseMaps, usual_fields, write_response_fields
from passerelle.export.nginx_location import (
    LocationWriter,
    is_closed,
    is_limited,
    limit_rate,
    limit_zone,
)
from passerelle.export.nginx_routes import Location, Server, accepted_methods, hidden, servers
from passerelle.export.nginx_text import body_limit, literal, literal_path, path_regex, regex, size, unique, word
from passerelle.export.nginx_upstream import write_upstream
from passerelle.export.nginx_writer import (
    CACHE_FOLDER,
    Writer,
    write_limits,
    write_listener,
    write_main,
    write_upgrade,
)
from passerelle.export.passed_address import lost_address
from passerelle.system.ports import join

_ERROR_PAGE = "/_passerelle_error_"  # the location of a page
_ERRORS = sorted({status for status, _, _ in TABLE.values() if status != 499})
_FIRST_JUMP = 471  # statuses without a meaning, which lead from a path to the location of a method
# What nginx does not decode as the gateway does, or what a service may interpret differently.
_REFUSED_PATHS = r"~*^[^?]*(?://|\\|%2f|%5c|%7f|%[01][0-9a-f]|/(?:\.|%2e){1,2}(?:[/?;]|%3b|$))"


def export(deployment: Deployment, listen: Address | None) -> tuple[str, Sequence[Finding]]:
    """Return the configuration of nginx, and what is lost. ``listen`` replaces the address of the file."""
    work = _Export(deployment, listen or deployment.config.address)
    work.losses += lost_address(deployment.config, "--listen", listen)
    text = work.write()
    return text, work.losses


class _Export:
    def __init__(self, deployment: Deployment, listen: Address) -> None:
        self.deployment = deployment
        self.config = deployment.config
        self.listen = listen
        self.losses: list[Finding] = list(IN_PLACE.losses(self.config))
        self.losses += [
            Finding(("listen", index), f"the export has {self.config.address} alone; add the others with listen")
            for index, each in enumerate(self.config.listen)
            if each is not self.config.main_listener and each.https_redirect is None
        ]
        self.upstreams = unique(item.name for item in deployment.services)
        self.maps = ResponseMaps()
        self.locations = LocationWriter(deployment, self.upstreams, self.maps)

    def add_loss(self, finding: Finding) -> None:
        """Add a loss, unless it is already listed: routes occur in the servers of several hosts."""
        if finding not in self.losses:
            self.losses.append(finding)

    def loser(self, item: RouteExport | ServiceExport) -> Lose:
        """Return the function that reports losses of a route or service."""

        def lose(*keys: str | int, why: str) -> None:
            self.add_loss(Finding((*item.loc, *keys), why, at_key=True))

        return lose

    def write(self) -> str:
        """Write the file."""
        tables = servers(self.deployment.routes)
        servers_out = Writer(depth=1)
        for table in tables:
            for finding in hidden(table):
                self.add_loss(finding)
            servers_out.gap()
            self._write_server(servers_out, table)
        out = Writer()
        write_main(out, self.deployment, str(self.config.workers))
        with out.block("http"):
            write_limits(out, self.deployment)
            out.add("access_log", self._log(), *self._log_format())
            self._write_shared(out)
            for service in self.deployment.services:
                out.gap()
                write_upstream(out, service, self.upstreams[service.name], self.loser(service))
            out.append(servers_out)
        return out.text

    def _log(self) -> str:
        log = self.config.access_log
        if isinstance(log, Path):
            return word(self.deployment.path(log))
        if log in ("stdout", "stderr"):
            return f"/dev/{log}"
        if log == "off":
            return log
        kind, host, port = split_target(log)
        if kind in ("udp", "unix"):
            return f"syslog:server={join(host, port) if kind == 'udp' else f'unix:{host}'}"
        self._lose_log(
            "access_log", "nginx sends it over UDP or to a socket of syslog only; it goes to standard output"
        )
        return "/dev/stdout"

    def _log_format(self) -> Sequence[str]:
        name = self.config.access_log_format
        if "access_log_format" not in self.config.model_fields_set or self.config.access_log == "off":
            return ()
        if name != "combined":
            self._lose_log("access_log_format", "nginx writes `combined`; write a log_format for another one")
        return ("combined",)

    def _lose_log(self, key: str, why: str) -> None:
        self.add_loss(Finding((key,), why, at_key=True))

    def _write_shared(self, out: Writer) -> None:
        """Write what all servers share: variables, zones, the cache."""
        out.add("proxy_http_version", "1.1")
        out.add("proxy_redirect", "off")
        for name, value in usual_fields(self.config).items():
            out.add("proxy_set_header", name, value)
        out.gap()
        write_upgrade(out)
        out.comment("A dollar sign, which nginx cannot write otherwise.")
        with out.block("geo", "$dollar"):
            out.add("default", '"$"')
        with out.block("map", "$request_uri", "$refused_path"):
            out.add("default", "0")
            out.add(regex(_REFUSED_PATHS), "1")
        self._write_proxies(out)
        self._write_zones(out)
        if any(item.route.cache is not None for item in self.deployment.routes):
            out.gap()
            most = size(self.config.cache.memory)
            out.add("proxy_cache_path", CACHE_FOLDER, "levels=1:2", "keys_zone=responses:10m", f"max_size={most}")
            with out.block("map", "$http_cache_control", "$client_refuses_stored"):
                out.add("default", "0")
                out.add('"~*no-cache|no-store|max-age=0"', "1")
            with out.block("map", "$upstream_http_cache_control", "$unshared"):
                out.add("default", "0")
                out.add('"~*private|no-store|no-cache"', "1")
        if any(item.route.static is not None for item in self.deployment.routes):
            out.gap()
            write_types(out)
        maps = Writer(depth=1)
        self.maps.write(maps)
        if maps.text.strip():
            out.gap()
            out.append(maps)

    def _write_proxies(self, out: Writer) -> None:
        if not self.config.trusted_proxies:
            return
        out.gap()
        for network in self.config.trusted_proxies:
            out.add("set_real_ip_from", str(network))
        out.add("real_ip_header", "X-Forwarded-For")
        out.add("real_ip_recursive", "on")
        with out.block("geo", "$realip_remote_addr", "$trusted_proxy"):
            out.add("default", "0")
            for network in self.config.trusted_proxies:
                out.add(str(network), "1")
        with out.block("map", '"$trusted_proxy $http_x_forwarded_proto"', "$client_scheme"):
            out.add("default", "$scheme")
            out.add('"1 https"', "https")
            out.add('"1 http"', "http")

    def _write_zones(self, out: Writer) -> None:
        why = "clients may use IPv6, and nginx counts each address by itself instead of a /64"
        out.gap()
        for item in self.deployment.routes:
            for index, limit in enumerate(item.route.rate_limit):
                if is_closed(item.route) or not is_limited(limit):
                    continue
                if self._may_be_ipv6():
                    self.add_loss(Finding((*item.loc, "rate_limit", index), why))
                zone, rate = f"zone={limit_zone(item, index)}:10m", f"rate={limit_rate(limit)}"
                out.add("limit_req_zone", "$binary_remote_addr", zone, rate)
        out.add("limit_req_status", "429")
        if self.config.limits.connections_per_address is not None:
            if self._may_be_ipv6():
                self.add_loss(Finding(("limits", "connections_per_address"), why))
            out.add("limit_conn_zone", "$binary_remote_addr", "zone=clients:10m")
            out.add("limit_conn_status", "429")

    def _may_be_ipv6(self) -> bool:
        """Whether the address of a client may be of IPv6: the listener has such an address, or a proxy states it."""
        try:
            version = ipaddress.ip_address(self.listen.host).version
        except ValueError:
            return True
        return version == 6 or bool(self.config.trusted_proxies)

    def _write_server(self, out: Writer, table: Server) -> None:
        config = self.config
        with out.block("server"):
            write_listener(
                out, self.deployment, config.scheme, self.listen, *(["default_server"] if table.host is None else [])
            )
            out.add("server_name", table.host if table.host is not None else "_")
            if config.tls is not None and config.tls.client_ca is not None:
                out.add("ssl_client_certificate", word(self.deployment.path(config.tls.client_ca)))
                out.add("ssl_verify_client", {"required": "on", "optional": "optional"}[config.tls.client])
            if config.limits.connections_per_address is not None:
                # The gateway counts in each worker, nginx in all of them.
                out.add("limit_conn", "clients", str(config.limits.connections_per_address * config.workers))
            self._write_error_pages(out)
            if config.errors:
                out.add("recursive_error_pages", "on")  # also in the locations of methods
            for status, page in config.errors.items():
                with out.block("location", "=", f"{_ERROR_PAGE}{status}"):
                    out.add("internal")
                    with out.block("types"):
                        pass
                    out.add("default_type", '"text/html; charset=utf-8"')
                    out.add("alias", literal(self.deployment.path(page)))
            out.gap()
            with out.block("if", "($refused_path)"):
                out.add("return", "400")
            for index, location in enumerate(table.locations):
                out.gap()
                self._write_location(out, location, f"{index}")
            if not any(location.pattern.shape == "/{*}" for location in table.locations):
                out.gap()
                with out.block("location", "/"):
                    write_response_fields(out, self.maps, config, None)
                    out.add("return", "404")

    def _write_error_pages(self, out: Writer) -> None:
        """Write which pages replace the errors of nginx; a status of its own comes before its class."""
        pages = self.config.errors
        for status in sorted(pages):
            known = [number for number in _ERRORS if str(number)[0] == status[0] and str(number) not in pages]
            numbers = map(str, known) if status.endswith("xx") else [status]
            out.add("error_page", *numbers, f"{_ERROR_PAGE}{status}")

    def _write_location(self, out: Writer, location: Location, name: str) -> None:
        exact = ["=", word(literal_path(location.pattern))]
        jumps: list[tuple[str, RouteExport]] = []
        out.comment(str(location.routes[0].route.path))
        with out.block("location", *(exact if location.exact else ["~", regex(path_regex(location.pattern))])):
            self._write_content(out, location, name, jumps)
        for where, item in jumps:
            with out.block("location", where):
                self._write_body_limit(out, location)
                self.locations.write(out, item, self.loser(item), self.loser)

    def _write_content(self, out: Writer, location: Location, name: str, jumps: list[tuple[str, RouteExport]]) -> None:
        """Write the content of a location; with several routes, each but the last goes to a location of its own."""
        *several, last = location.routes
        if several:
            self._write_error_pages(out)  # nginx inherits either all of them, or none
        for number, item in enumerate(several):
            out.add("error_page", str(_FIRST_JUMP + number), "=", f"@path_{name}_{number}")
            jumps.append((f"@path_{name}_{number}", item))
            with out.block("if", f"($request_method ~ {_methods(item)})"):
                out.add("return", str(_FIRST_JUMP + number))
        self._write_body_limit(out, location)
        if accepted_methods(last) is not None:
            allowed = ", ".join(sorted(location.methods or ()))
            with out.block("if", f"($request_method !~ {_methods(last)})"):
                out.add("add_header", "Allow", f'"{allowed}"', "always")
                out.add("return", "405")
        self.locations.write(out, last, self.loser(last), self.loser)

    def _write_body_limit(self, out: Writer, location: Location) -> None:
        """Write the largest limit of the routes: nginx checks it before it chooses by method."""
        limits = [self.config.body_limit(item.route) for item in location.routes]
        largest = None if None in limits else max(limit or 0 for limit in limits)
        for item, limit in zip(location.routes, limits, strict=True):
            if limit != largest and not is_closed(item.route):
                why = "nginx has one limit for all methods of a path; the export has the largest"
                self.loser(item)("body", why=why)
        if largest == 0:
            self.loser(location.routes[0])("body", why="nginx has no limit of 0; the export has 1")
        out.add("client_max_body_size", body_limit(largest))


def _methods(item: RouteExport) -> str:
    return f"^({'|'.join(sorted(accepted_methods(item) or ()))})$"
