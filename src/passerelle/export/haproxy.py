"""HAProxy in front of gateways: it spreads requests over those that are ready, and passes them on as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from passerelle.config.models.addresses import Address
from passerelle.config.models.config import Config
from passerelle.config.models.tls import ListenerTls
from passerelle.config.problems import Finding
from passerelle.export.client_address import lost_behind
from passerelle.export.coverage import Coverage, Exported, Lost, NotApplicable
from passerelle.export.deployment import Deployment
from passerelle.export.listener_certificate import LOST, listener_pair
from passerelle.export.passed_address import lost_address

_YES = Exported()

COVERAGE = Coverage(
    {
        **dict.fromkeys(("Config.listen", "Config.limits", "Config.workers", "Config.routes", "Config.admin"), _YES),
        **dict.fromkeys(("Limits.head", "Limits.headers", "Limits.head_timeout", "Limits.idle_timeout"), _YES),
        **dict.fromkeys(("Limits.connections", "Limits.write_timeout", "Limits.body_timeout"), _YES),
        **dict.fromkeys(("Route.timeout", "Route.stream_idle_timeout", "Route.tunnel_idle_timeout"), _YES),
        **dict.fromkeys(("AdminPort.listen", "AdminPort.open"), _YES),
        "Config.tls": Exported("HAProxy does not verify the certificate of the gateways"),
        "ListenerTls.certificate": _YES,
        "ListenerTls.key": Exported("a loss unless it is the file of the certificate, `CERTIFICATE.key`, or its twin"),
        **dict.fromkeys(("ListenerTls.minimum", "ListenerTls.ciphers", "ListenerTls.curve"), _YES),
        "ListenerTls.auto": LOST,
        "ListenerTls.certificates": Lost("HAProxy chooses by the names in certificates; add their files with crt"),
        "ListenerTls.client_ca": Lost("HAProxy ends the TLS connection, so the gateways see no client certificates"),
        "ListenerTls.client": Lost("HAProxy ends the TLS connection, so the gateways see no client certificates"),
        "Listener.address": Exported("the first that forwards requests"),
        "Listener.https_redirect": Lost("add a frontend for port 80 with http-request redirect scheme https"),
        "Listener.proxy_protocol": _YES,
        "Limits.connections_per_address": Lost(
            "all connections come from HAProxy; limit them there with a stick table"
        ),
        "Config.trusted_proxies": Exported("must contain the address of HAProxy if a key uses that of the client"),
        "Route.clients": Exported("needs `trusted_proxies`"),
        "Match.clients": Exported("needs `trusted_proxies`"),
        "Route.login": Exported("needs `trusted_proxies`"),
        "Route.rate_limit": Exported("`by: address` needs `trusted_proxies`"),
        "RateLimit.by": Exported("`address` needs `trusted_proxies`"),
    },
    NotApplicable("the gateways behind HAProxy apply it"),
)
"""What the export does with each key."""

_MARGIN = 5.0  # seconds that HAProxy waits longer than a gateway, so that the gateway responds with its own error
_FOREVER = 86_400.0  # seconds, where the file has no limit
_BUFFER, _REWRITE = 16_384, 1_024  # octets: the usual buffer of HAProxy, and its part for added fields
_FIELDS, _ADDED_FIELDS, _MOST_FIELDS = 101, 10, 32_767


def export(
    deployment: Deployment, gateways: Sequence[Address], listen: Address | None
) -> tuple[str, Sequence[Finding]]:
    """Return the configuration of HAProxy, and what is lost. Without ``gateways``, there is one: that of the file."""
    sections = (
        ("global", _global(deployment.config)),
        ("defaults", _defaults(deployment)),
        ("frontend clients", _frontend(deployment, len(gateways) or 1, listen)),
        ("backend gateways", _backend(deployment.config, gateways or [deployment.config.address])),
    )
    lines = [f"# {deployment.header}"]
    for name, directives in sections:
        lines += ["", name, *(f"    {directive}" for directive in directives)]
    config = deployment.config
    losses = [*COVERAGE.losses(config), *lost_address(config, "--gateways", gateways), *_losses(deployment)]
    return "\n".join(lines) + "\n", losses


def quoted(text: str) -> str:
    """Write a word as HAProxy reads it: nothing in single quotes has a meaning."""
    return "'" + text.replace("'", "'\\''") + "'"


def _milliseconds(seconds: float) -> str:
    return f"{math.ceil(seconds * 1000)}ms"


def _global(config: Config) -> Iterator[str]:
    yield "log stdout format raw daemon"
    yield f"tune.bufsize {max(_BUFFER, config.limits.head + 2 * _REWRITE)}"
    yield f"tune.http.maxhdr {min(max(_FIELDS, config.limits.headers) + _ADDED_FIELDS, _MOST_FIELDS)}"
    if config.tls is not None and _is_twin(config.tls):
        yield "ssl-load-extra-del-ext"


def _defaults(deployment: Deployment) -> Iterator[str]:
    limits = deployment.config.limits
    tunnels = [item.route.tunnel_idle_timeout for item in deployment.routes]
    waits = [wait for item in deployment.routes for wait in (item.route.timeout, item.route.stream_idle_timeout)]
    longest = max(_seconds(wait) for wait in (*waits, limits.write_timeout, limits.body_timeout)) + _MARGIN
    yield "mode http"
    yield "log global"
    yield "option httplog"
    yield "option dontlognull"
    yield f"timeout http-request {_milliseconds(limits.head_timeout)}"
    yield f"timeout http-keep-alive {_milliseconds(limits.idle_timeout)}"
    yield "timeout connect 2s"
    yield "timeout queue 30s"
    yield f"timeout client {_milliseconds(longest)}"
    yield f"timeout server {_milliseconds(longest)}"
    yield f"timeout tunnel {_milliseconds(max(map(_seconds, tunnels)) + _MARGIN)}"


def _seconds(found: float | str) -> float:
    return found if isinstance(found, float) else _FOREVER


def _frontend(deployment: Deployment, gateways: int, listen: Address | None) -> Iterator[str]:
    tls = deployment.config.tls
    address = listen or Address(host="0.0.0.0", port=443 if tls is not None else 80)
    if tls is None:
        yield f"bind {address}"
    else:
        certificate = quoted(deployment.path(listener_pair(deployment.config)[0]))
        bind = f"bind {address} ssl crt {certificate} ssl-min-ver TLSv{tls.minimum} alpn http/1.1"
        if tls.ciphers:
            bind += f" ciphers {':'.join(tls.ciphers)}"
        yield bind if tls.curve is None else f"{bind} curves {tls.curve}"
    # Not as a limit of the process, which does not start if it may not open that many descriptors.
    yield f"maxconn {gateways * deployment.config.workers * deployment.config.limits.connections}"
    yield "# The gateways decide about everything else; what a client states about itself does not reach them."
    yield "option forwardfor"
    yield "http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]"
    yield "http-request set-header X-Forwarded-Host %[req.hdr(Host)]"
    yield "http-request del-header X-Forwarded-Prefix"
    yield "http-request set-header X-Request-Id %[uuid]"
    yield "default_backend gateways"


def _backend(config: Config, gateways: Sequence[Address]) -> Iterator[str]:
    yield "balance leastconn"
    yield "# A request that may already have had an effect is not sent to a second gateway."
    yield "retries 2"
    yield "option redispatch"
    yield "retry-on conn-failure empty-response"
    yield "http-request disable-l7-retry unless METH_GET || METH_OPTIONS"
    admin = config.admin
    check = "check inter 2s fall 2 rise 1"
    if admin is not None and not admin.is_local and "readyz" in admin.open:
        yield "option httpchk"
        yield "http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host localhost"
        yield "http-check expect status 200"
        check += f" port {admin.listen.port}"
    if config.main_listener.proxy_protocol is not None:
        check = f"send-proxy-v2 check-send-proxy {check}"
    if config.scheme == "https":
        check += " ssl verify none sni req.hdr(host),field(1,:)"
    most = config.workers * config.limits.connections
    for number, gateway in enumerate(gateways, 1):
        yield f"server gateway{number} {gateway} maxconn {most} init-addr libc,none {check}"


def _is_twin(tls: ListenerTls) -> bool:
    """Whether certificate and key are NAME.crt and NAME.key."""
    certificate = tls.certificate
    return certificate is not None and certificate.suffix == ".crt" and tls.key == certificate.with_suffix(".key")


def _losses(deployment: Deployment) -> Iterator[Finding]:
    tls = deployment.config.tls
    if tls is not None:
        why = "HAProxy does not verify the certificate of the gateways; set verify and ca-file of the servers"
        yield Finding(("tls",), why, at_key=True)
    if tls is not None and tls.certificate is not None:
        beside = tls.certificate.with_name(f"{tls.certificate.name}.key")
        if tls.key not in (tls.certificate, beside) and not _is_twin(tls):
            yield Finding(
                ("tls", "key"), f"HAProxy reads the key from {beside.name}, beside the certificate", at_key=True
            )
    yield from lost_behind(deployment, "HAProxy")
