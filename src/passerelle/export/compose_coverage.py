"""What the export to Compose does with each key of the configuration."""

from __future__ import annotations

from passerelle.config.models.application import ONLY_WITH_APP
from passerelle.export.coverage import Coverage, Exported, Lost, NotApplicable
from passerelle.export.nginx_coverage import IN_FRONT

_YES = Exported()
_ENDS = Exported("the container ends, and Compose starts it again: it is away meanwhile")
COVERAGE = Coverage(
    {
        **dict.fromkeys(("Config.listen", "Config.tls", "Config.limits", "Config.redis", "Config.tracing"), _YES),
        **dict.fromkeys(("Config.trusted_proxies", "Config.access_log", "Config.workers", "Config.cache"), _YES),
        **dict.fromkeys(("Config.services", "Config.keys", "Config.sessions", "Config.dns", "Config.jwt"), _YES),
        "Listener.address": Exported("one port on all addresses: that of the first that forwards requests"),
        "Listener.https_redirect": Lost("add a server block for port 80 to nginx.conf, with return 308"),
        "Listener.proxy_protocol": Lost("nginx states the client in `X-Forwarded-For`"),
        "Config.user": Lost("the containers run as the user of their image"),
        "Config.group": Lost("the containers run as the group of their image"),
        "Config.admin": Exported("`off` is a loss: there are no metrics"),
        "Config.alerts": _YES,
        "Config.plugins": Lost("the image of the gateway does not have the modules; build one from it that has them"),
        "Config.state": Lost("the gateways keep their state in Redis"),
        "AlertSettings.webhook": _YES,
        "Webhook.url": Exported("a loss with a loopback address"),
        "Config.backup": Exported("in a file that only the job of backups has"),
        "Backup.databases": Exported("a loss with a file of SQLite, and with a loopback address of no service"),
        "Backup.scratch": Exported("a loss with a loopback address"),
        "Backup.to": _YES,
        "S3.endpoint": Exported("a loss with a loopback address"),
        "Jwt.jwks": Exported("a loss with a loopback address"),
        "Config.oidc": _YES,
        "Oidc.issuer": Exported("a loss with a loopback address"),
        "Dns.server": Exported("a loss with a loopback address"),
        "Dns.max_ttl": _YES,
        "Keys.store": Exported("a file is a loss: the gateways have their keys in Redis"),
        "Sessions.store": _YES,
        "Sessions.insecure": Exported("a loss: containers listen on all addresses"),
        "Tracing.endpoint": _YES,
        "Cache.memory": _YES,
        "Limits.connections": _YES,
        **{key: IN_FRONT.keys[key] for key in ("Limits.connections_per_address", "ListenerTls.certificates")},
        **{key: IN_FRONT.keys[key] for key in ("ListenerTls.client_ca", "ListenerTls.client", "ListenerTls.auto")},
        **dict.fromkeys(("Service.app", "Service.instances", *(f"Service.{key}" for key in ONLY_WITH_APP)), _YES),
        **dict.fromkeys(("Service.max_requests", "Service.max_requests_jitter"), _ENDS),
        "Service.transport": NotApplicable("an instance in a container has a port"),
        "Service.grace": _YES,
        **dict.fromkeys(("Service.health", "Health.path", "Service.targets", "Service.zones"), _YES),
        "Service.run": Exported("a loss with a loopback address, and with a password"),
        "Service.env": Exported("a loss with a loopback address, and with a file of SQLite"),
        "Service.cwd": Exported("a loss outside the folder of the file"),
        "Zone.targets": _YES,
        "Target.url": Exported("a loss with a loopback address"),
        "Target.file": _YES,
        "Instances.min": _YES,
        "Instances.max": Exported("a loss unless equal to `min`: Compose runs a fixed number of containers"),
        "Instances.target_in_flight": Exported("a loss if `max` is larger than `min`"),
    },
    NotApplicable("the gateways apply it from their file"),
)
"""What the export does with each key."""
