"""nginx in front of gateways: it spreads connections over them and passes requests on as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from passerelle.config.models.addresses import Address
from passerelle.config.problems import Finding
from passerelle.export.client_address import lost_behind
from passerelle.export.deployment import Deployment
from passerelle.export.nginx_coverage import IN_FRONT
from passerelle.export.nginx_text import body_limit, duration
from passerelle.export.nginx_writer import Writer, write_limits, write_listener, write_main, write_upgrade
from passerelle.export.passed_address import lost_address

_MARGIN = 5.0  # seconds that nginx waits longer than a gateway, so that the gateway responds with its own error
_UPSTREAM = "gateways"
_FIELDS = (
    ("Host", "$http_host"),
    ("Connection", "$connection_upgrade"),
    ("Upgrade", "$http_upgrade"),
    ("X-Forwarded-For", "$proxy_add_x_forwarded_for"),
    ("X-Forwarded-Host", "$http_host"),
    ("X-Forwarded-Proto", "$scheme"),
    ("X-Forwarded-Prefix", '""'),
    ("X-Request-Id", "$request_id"),
)


def export(
    deployment: Deployment, gateways: Sequence[Address], listen: Address | None
) -> tuple[str, Sequence[Finding]]:
    """Return the configuration of nginx, and what is lost. Without ``gateways``, there is one: that of the file."""
    config = deployment.config
    out = Writer()
    write_main(out, deployment, "auto")
    with out.block("http"):
        write_limits(out, deployment)
        out.gap()
        write_upgrade(out)
        out.gap()
        with out.block("upstream", _UPSTREAM):
            for gateway in gateways or [config.address]:
                out.add("server", str(gateway))
            out.add("keepalive", "64")
        out.gap()
        with out.block("server"):
            address = listen or Address(host="0.0.0.0", port=443 if config.tls is not None else 80)
            write_listener(out, deployment, "http" if config.tls is None else "https", address, "default_server")
            out.gap()
            out.comment("A gateway decides about paths, bodies and slow responses: nothing is changed or stored here.")
            out.add("merge_slashes", "off")
            out.add("client_max_body_size", _largest_body(deployment))
            with out.block("location", "/"):
                out.add("proxy_pass", f"{config.scheme}://{_UPSTREAM}")
                out.add("proxy_http_version", "1.1")
                for name, value in _FIELDS:
                    out.add("proxy_set_header", name, value)
                out.add("proxy_buffering", "off")
                out.add("proxy_request_buffering", "off")
                out.add("proxy_connect_timeout", "2s")
                out.add("proxy_read_timeout", duration(_longest_wait(deployment)))
                if config.tls is not None:
                    out.comment("The gateways have the certificate of the clients' names.")
                    out.add("proxy_ssl_server_name", "on")
                    out.add("proxy_ssl_name", "$host")
    losses = [*IN_FRONT.losses(config), *lost_address(config, "--gateways", gateways), *_losses(deployment)]
    return out.text, losses


def _largest_body(deployment: Deployment) -> str:
    limits = [deployment.config.body_limit(item.route) for item in deployment.routes]
    known = [limit for limit in limits if limit is not None]
    return body_limit(max(known) if len(known) == len(limits) else None)


def _longest_wait(deployment: Deployment) -> float:
    """Return the longest time for which a gateway may be silent: 1 day where the file sets no limit."""
    waits = [
        wait if isinstance(wait, float) else 86_400.0
        for item in deployment.routes
        for wait in (item.route.timeout, item.route.stream_idle_timeout, item.route.tunnel_idle_timeout)
    ]
    return max(waits) + _MARGIN


def _losses(deployment: Deployment) -> Iterator[Finding]:
    config = deployment.config
    if config.tls is not None:
        why = "nginx does not verify the certificate of the gateways; set proxy_ssl_verify and the authority to trust"
        yield Finding(("tls",), why, at_key=True)
    yield from lost_behind(deployment, "nginx")
