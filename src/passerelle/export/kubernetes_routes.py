"""The way from clients to the gateway: a Gateway with its route, or an Ingress."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from passerelle.export.deployment import Deployment
from passerelle.export.kubernetes_pods import Manifest, Options, manifest

_MOST_HOSTS = 16  # of an HTTPRoute


def route_manifests(deployment: Deployment, options: Options) -> list[Manifest]:
    """Return a Gateway and an HTTPRoute, or with ``options.ingress`` an Ingress of that class."""
    hosts = _hosts(deployment)
    backend = {"name": "gateway", "port": 80}
    if options.ingress is not None:
        path = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "gateway", "port": {"number": 80}}}}
        spec: dict[str, Any] = {"ingressClassName": options.ingress}
        if deployment.config.tls is not None:
            spec["tls"] = list(_ingress_tls(deployment))
        spec["rules"] = [{"host": host, "http": {"paths": [path]}} for host in hosts] or [{"http": {"paths": [path]}}]
        return [manifest("networking.k8s.io/v1", "Ingress", "gateway", spec=spec)]
    gateway = {"gatewayClassName": options.gateway_class, "listeners": list(_listeners(deployment))}
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [backend],
        # Streams last, and the gateway has its own timeouts.
        "timeouts": {"request": "0s"},
    }
    route = {"parentRefs": [{"name": "gateway"}], **({"hostnames": hosts} if hosts else {}), "rules": [rule]}
    api = "gateway.networking.k8s.io/v1"
    return [
        manifest(api, "Gateway", "gateway", spec=gateway),
        manifest(api, "HTTPRoute", "gateway", spec=route),
    ]


def _hosts(deployment: Deployment) -> list[str]:
    """Return the hosts of the routes, or none if the gateway must see requests for all hosts."""
    found = {host for item in deployment.routes for host in item.route.hosts}
    hosts = sorted(host for host in found if host is not None and not host.startswith("[") and "_" not in host)
    return hosts if len(hosts) == len(found) and len(hosts) <= _MOST_HOSTS else []


def _listeners(deployment: Deployment) -> Iterator[Manifest]:
    tls = deployment.config.tls
    rest: Manifest = {"allowedRoutes": {"namespaces": {"from": "Same"}}}
    if tls is None:
        yield {"name": "http", "protocol": "HTTP", "port": 80, **rest}
        return
    yield {"name": "https", "protocol": "HTTPS", "port": 443, "tls": _certificate("gateway-tls"), **rest}
    number = 0
    for index, certificate in enumerate(tls.certificates):
        for name in certificate.names:
            number += 1
            secret = _certificate(f"gateway-tls-{index + 1}")
            yield {"name": f"https-{number}", "hostname": name, "protocol": "HTTPS", "port": 443, "tls": secret, **rest}


def _certificate(secret: str) -> Manifest:
    return {"mode": "Terminate", "certificateRefs": [{"name": secret}]}


def _ingress_tls(deployment: Deployment) -> Iterator[Manifest]:
    yield {"secretName": "gateway-tls"}
    tls = deployment.config.tls
    for index, certificate in enumerate(tls.certificates if tls is not None else ()):
        yield {"hosts": list(certificate.names), "secretName": f"gateway-tls-{index + 1}"}
