"""What the export to Kubernetes does with each key of the configuration."""

from __future__ import annotations

from passerelle.export.coverage import Coverage, Exported, Lost, NotApplicable

_PLACED = NotApplicable("the file of the export has its content in the places where it applies")
_ENDS = Exported("the container ends, and the cluster starts it again: it is away meanwhile")

COVERAGE = Coverage(
    {
        # Keys of the process and of its place. All other keys stay in the file of the gateway.
        "Config.include": _PLACED,
        "Config.profiles": _PLACED,
        "Config.defaults": _PLACED,
        "Config.listen": Exported("all addresses of the pod; a port below 1024 becomes 8080"),
        "Listener.address": Exported("one port: that of the first that forwards requests"),
        "Listener.tls": NotApplicable("TLS ends at the Gateway or Ingress"),
        "Listener.https_redirect": Lost("add an HTTPRoute with the filter RequestRedirect to the listener for port 80"),
        "Listener.https_port": NotApplicable("it belongs to the redirect, which is lost"),
        "Listener.proxy_protocol": Lost("the Gateway states the client in `X-Forwarded-For`"),
        "Listener.mode": NotApplicable("pods have no Unix sockets for clients"),
        "Config.admin": Exported("`off` is a loss: no readiness page and no ServiceMonitor"),
        "Config.access_log": Exported("a path or a socket of the machine is a loss: a pod logs to standard output"),
        "Config.user": Lost("set runAsUser of the pods; their images run as a user of their own"),
        "Config.group": Lost("set runAsGroup of the pods; their images run as a group of their own"),
        "Config.redis": Exported("a loopback address is a loss without `--redis`"),
        "Config.trusted_proxies": Exported("must contain the proxies of the Gateway if a key uses client addresses"),
        "Config.plugins": Lost("the image of the gateway does not have the modules; build one from it that has them"),
        "Config.state": Lost("a pod keeps no files; with `redis`, the state is there"),
        "Route.rollout": Exported("a loss without `redis`: a pod keeps no state, and each judges for itself"),
        "Config.tls": Exported("ends at the Gateway or Ingress"),
        "ListenerTls.client_ca": Lost("TLS ends at the Gateway, so the gateway sees no client certificates"),
        "ListenerTls.client": Lost("TLS ends at the Gateway, so the gateway sees no client certificates"),
        "ListenerTls.auto": Lost("TLS ends at the Gateway; have cert-manager order certificates for it"),
        "ListenerTls.ciphers": Lost("a Gateway has no field for cipher suites; set them in its implementation"),
        "ListenerTls.curve": Lost("a Gateway has no field for curves; set them in its implementation"),
        "ListenerTls.minimum": Lost("a Gateway has no field for the version of TLS; set it in its implementation"),
        "Limits.connections_per_address": Lost("all connections come from the proxies of the Gateway"),
        "Dns.server": Lost("the names of Services are known to the DNS of the cluster only"),
        "Keys.store": Exported("a path is a loss: a pod keeps no files, and pods share none"),
        "Sessions.store": Exported("a path is a loss: a pod keeps no files, and pods share none"),
        "Sessions.insecure": Exported("`true` is a loss: a pod listens beyond loopback, so clients need https"),
        "Config.backup": Exported("in a file that only the job of backups has; a loss without `--backup`"),
        "Backup.databases": Exported("a loss with a file of SQLite, and with a loopback address"),
        "Backup.scratch": Exported("a loss with a loopback address"),
        "S3.endpoint": Exported("a loss with a loopback address"),
        "S3.secret_key": Exported("a value in the file is a loss: it is not exported"),
        "Jwt.jwks": Exported("a loopback address is a loss"),
        "Tracing.endpoint": Exported("a loopback address is a loss"),
        "Target.url": Exported("a loopback address is a loss"),
        "Target.file": Lost("a pod does not have the file that another program writes"),
        "Service.run": Exported(
            "defaults of variables, passwords, and other loopback addresses than `HOST:{port}` are losses"
        ),
        "Service.env": Exported("defaults, possible secrets, loopback addresses and SQLite are losses"),
        "Service.transport": NotApplicable("an instance in a pod has a port"),
        **dict.fromkeys(("Service.max_requests", "Service.max_requests_jitter"), _ENDS),
        "Instances.target_in_flight": Exported("a loss with `--scale-by cpu`"),
        "Route.cache": Exported("a loss with several gateways without `redis`"),
        "Part.cache": Exported("a loss with several gateways without `redis`"),
        "Route.rate_limit": Exported("a loss with several gateways without `redis`"),
        "Route.login": Exported("a loss with several gateways without `redis`; needs `trusted_proxies`"),
        "Route.clients": Exported("needs `trusted_proxies`"),
        "Match.clients": Exported("needs `trusted_proxies`"),
        "RateLimit.by": Exported("`address` needs `trusted_proxies`"),
        "Balance.by": Exported("`address` needs `trusted_proxies`"),
        # Secrets are references to keys of a Secret.
        "AdminPort.token": Exported("a value in the file is a loss: it is not exported"),
        "IdentityToken.secret": Exported("a value in the file is a loss: it is not exported"),
        "FixedKey.key": Exported("a value in the file is a loss: it is not exported"),
        "Oidc.client_secret": Exported("a value in the file is a loss: it is not exported"),
        "Oidc.issuer": Exported("a loopback address is a loss"),
        "Jwt.secret": Exported("a value in the file is a loss: it is not exported"),
        "Sticky.secret": Exported("a value in the file is a loss: it is not exported"),
        "Webhook.secret": Exported("a value in the file is a loss: it is not exported"),
        "Webhook.url": Exported("a value in the file is a loss: it is not exported"),
        "Tracing.headers": Exported("a value in the file is a loss: it is not exported"),
        "Health.headers": Exported("a value that may be a secret is a loss: it is not exported"),
        "RequestHeaders.set": Exported("a value that may be a secret is a loss: it is not exported"),
        "RequestHeaders.add": Exported("a value that may be a secret is a loss: it is not exported"),
        "ResponseHeaders.set": Exported("a value that may be a secret is a loss: it is not exported"),
        "ResponseHeaders.add": Exported("a value that may be a secret is a loss: it is not exported"),
        "AdminPort.prometheus": NotApplicable("a link on the dashboard"),
    },
    Exported(),
)
"""Kubernetes: gateways apply the file, with addresses of the cluster; the cluster runs the instances."""
