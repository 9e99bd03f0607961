"""What an export to Kubernetes loses beside the keys that it cannot have: what pods do not share, defaults, secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from passerelle.config.problems import Finding
from passerelle.config.reading.substitute import references
from passerelle.export.client_address import lost_behind
from passerelle.export.config_tree import is_loopback
from passerelle.export.deployment import Deployment
from passerelle.export.kubernetes_pods import Options, Workload, has_loopback, is_reference, secret_words


def lost(deployment: Deployment, options: Options, workloads: Iterable[Workload]) -> Iterator[Finding]:
    """Yield what is lost for other reasons than its key alone."""
    yield from _not_kept(deployment, options)
    yield from _not_shared(deployment, options)
    yield from lost_behind(deployment, "the Gateway")
    for workload in workloads:
        yield from _lost_of(workload, options)


def by_in_flight(name: str, options: Options) -> bool:
    """Whether a service scales by its requests in flight: its name must be usable as the value of a label."""
    return options.scale_by == "in-flight" and name[0] not in "_-" and name[-1] not in "_-"


def _not_kept(deployment: Deployment, options: Options) -> Iterator[Finding]:
    """Yield what a pod without Redis forgets when it ends."""
    if deployment.config.redis is not None or options.redis is not None:
        return
    for item in deployment.routes:
        if item.route.rollout is not None:
            why = "without `redis`, a pod keeps no state of a rollout, and each judges for itself"
            yield Finding((*item.loc, "rollout"), why, at_key=True)


def _not_shared(deployment: Deployment, options: Options) -> Iterator[Finding]:
    """Yield what several gateways without Redis do each for itself."""
    if deployment.config.redis is not None or options.redis is not None or options.gateways == 1:
        return
    caching = "without `redis`, a pod stores for itself, and a write or purge evicts in one pod only"
    limiting = "without `redis`, each pod counts for itself"
    for item in deployment.routes:
        if item.route.cache is not None:
            yield Finding((*item.loc, "cache"), caching, at_key=True)
        for name, part in (item.route.compose or {}).items():
            if part.cache is not None:
                yield Finding((*item.loc, "compose", name, "cache"), caching, at_key=True)
        if item.route.rate_limit:
            yield Finding((*item.loc, "rate_limit"), limiting, at_key=True)
        if item.route.login is not None:
            yield Finding((*item.loc, "login"), limiting, at_key=True)


def _lost_of(workload: Workload, options: Options) -> Iterator[Finding]:
    loc = ("services", workload.name)
    if has_loopback(workload):
        yield Finding((*loc, "run"), "the command has a loopback address, which is that of the pod", at_key=True)
    for key, text in workload.env.items():
        if any(":-" in found for found in references(text)):
            why = f"a key of a Secret has no default; the Secret {workload.label}-env must have {key}"
            yield Finding((*loc, "env", key), why, at_key=True)
        elif is_reference(key, text) and not references(text):
            why = f"it may be a secret, which is not exported; the Secret {workload.label}-env must have {key}"
            yield Finding((*loc, "env", key), why, at_key=True)
    for key, value in workload.service.env.items():
        if unreachable := _unreachable(value):
            yield Finding((*loc, "env", key), unreachable, at_key=True)
    for key, word in secret_words(workload).items():
        if not references(word) or any(":-" in found for found in references(word)):
            why = f"a word of the command is not exported; the Secret {workload.label}-env must have it as {key}"
            yield Finding((*loc, "run"), why, at_key=True)
    if workload.service.instances.scales and not by_in_flight(workload.name, options):
        why = "the number of instances follows their use of the CPU"
        yield Finding((*loc, "instances", "target_in_flight"), why, at_key=True)


def _unreachable(value: str) -> str | None:
    """Return why a pod cannot use the address in a variable of a service."""
    scheme, separator, rest = value.partition("://")
    if not separator:
        return None
    if scheme.startswith("sqlite"):
        return "each pod has a file of its own, and loses it"
    authority = rest.partition("/")[0].rpartition("@")[2]
    host = authority[1:].partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
    return "a loopback address is the pod itself" if is_loopback(host) else None
