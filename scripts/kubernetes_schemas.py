"""Write the schemas that `passerelle export kubernetes --check` uses: the kinds of the export, and nothing else.

    scripts/kubernetes_schemas.py DEFINITIONS CRD…

DEFINITIONS is the file `_definitions.json` of a release of Kubernetes (the strict one of the package
`kubernetes-validate`), each CRD a file with a CustomResourceDefinition (the standard channel of the Gateway API; those
of the Prometheus operator). Descriptions, the status of resources, and properties that the export never writes are left
out, so a resource that has them is refused, as one with an unknown key is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).resolve().parent.parent / "src" / "passerelle" / "export" / "kubernetes_schemas.json"
KINDS = {
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "io.k8s.api.batch.v1.CronJob",
    "io.k8s.api.batch.v1.Job",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.Namespace",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.networking.v1.Ingress",
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
}
# Of these definitions and of these parts of a CRD, only some properties.
ONLY = {
    "io.k8s.api.core.v1.Volume": {"name", "configMap", "secret", "emptyDir", "persistentVolumeClaim"},
    "io.k8s.api.networking.v1.IngressBackend": {"service"},
    "Gateway/spec/listeners/[]": {"name", "hostname", "port", "protocol", "tls", "allowedRoutes"},
    "Gateway/spec": {"gatewayClassName", "listeners"},
    "HTTPRoute/spec": {"parentRefs", "hostnames", "rules"},
    "HTTPRoute/spec/rules/[]": {"matches", "backendRefs", "timeouts"},
    "HTTPRoute/spec/rules/[]/backendRefs/[]": {"group", "kind", "name", "namespace", "port", "weight"},
    "ServiceMonitor/spec": {"selector", "namespaceSelector", "endpoints", "jobLabel"},
    "ServiceMonitor/spec/endpoints/[]": {
        "port",
        "path",
        "scheme",
        "interval",
        "scrapeTimeout",
        "authorization",
        "honorLabels",
    },
}
# The files of kustomize, in which the export uses few keys.
_LIST = {"type": "array", "items": {"type": "string"}, "minItems": 1}
KUSTOMIZE = {
    "namespace": {"type": "string"},
    "resources": _LIST,
    "components": _LIST,
    "images": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {key: {"type": "string"} for key in ("name", "newName", "newTag", "digest")},
            "required": ["name"],
            "additionalProperties": False,
        },
    },
    "replicas": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "count": {"type": "integer", "minimum": 0}},
            "required": ["name", "count"],
            "additionalProperties": False,
        },
    },
    "patches": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "patch": {"type": "string"},
                "target": {
                    "type": "object",
                    "properties": {"kind": {"type": "string"}, "name": {"type": "string"}},
                    "additionalProperties": False,
                },
            },
            "required": ["patch"],
            "additionalProperties": False,
        },
    },
}
NOT = {
    "io.k8s.api.core.v1.PodSpec": {"affinity", "ephemeralContainers", "overhead", "resourceClaims", "schedulingGroup"},
    "io.k8s.api.core.v1.PersistentVolumeClaimSpec": {"dataSource", "dataSourceRef"},
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"managedFields", "ownerReferences"},
}
_KEPT = (
    *("type", "enum", "pattern", "format", "required", "additionalProperties", "items", "properties", "$ref", "oneOf"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
)


def plain(node: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a schema without descriptions, status and unused properties. ``path`` is its name or its place."""
    found = {key: node[key] for key in _KEPT if key in node}
    if "$ref" in found:
        found["$ref"] = "#/$defs/" + found["$ref"].rpartition("/")[2]
    if "format" in found and found["format"] not in ("int32", "int64"):
        del found["format"]
    if node.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    if "properties" in found:
        wanted = ONLY.get(path, set(found["properties"])) - NOT.get(path, set()) - {"status"}
        found["properties"] = {
            key: plain(value, f"{path}/{key}") for key, value in found["properties"].items() if key in wanted
        }
        found.setdefault("additionalProperties", False)
    if isinstance(found.get("items"), dict):
        found["items"] = plain(found["items"], f"{path}/[]")
    if isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = plain(found["additionalProperties"], f"{path}/*")
    if "oneOf" in found:
        found["oneOf"] = [plain(item, path) for item in found["oneOf"]]
    return found


def references(node: object) -> Iterator[str]:
    """Yield the names of the definitions that a schema refers to."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].rpartition("/")[2]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resource(schema: dict[str, Any], api: str, kind: str) -> dict[str, Any]:
    """Return the schema of a resource, in which API version, kind and metadata are required."""
    properties = schema["properties"] | {"apiVersion": {"enum": [api]}, "kind": {"enum": [kind]}}
    return schema | {
        "properties": properties,
        "required": ["apiVersion", "kind", "metadata"],
        "additionalProperties": False,
    }


def of_release(definitions: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schemas of resources by "apiVersion kind", and the definitions that they need."""
    kinds: dict[str, Any] = {}
    used: dict[str, Any] = {}
    waiting: list[str] = []
    for name in sorted(KINDS):
        group, version, kind = name.removeprefix("io.k8s.api.").split(".")
        domain = ".k8s.io" if group == "networking" else ""
        api = version if group == "core" else f"{group}{domain}/{version}"
        schema = resource(plain(definitions[name], name), api, kind)
        kinds[f"{api} {kind}"] = schema
        waiting += references(schema)
    while waiting:
        name = waiting.pop()
        if name not in used:
            used[name] = plain(definitions[name], name)
            waiting += references(used[name])
    return kinds, used


def of_crd(document: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the version v1 of a custom resource, by "apiVersion kind"."""
    spec = document["spec"]
    kind, api = spec["names"]["kind"], f"{spec['group']}/v1"
    (version,) = [version for version in spec["versions"] if version["name"] == "v1"]
    schema = plain(version["schema"]["openAPIV3Schema"], kind)
    schema["properties"]["metadata"] = {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    return {f"{api} {kind}": resource(schema, api, kind)}


def main(arguments: list[str]) -> int:
    """Write the schemas to the package."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    kinds, used = of_release(json.loads(Path(arguments[0]).read_text())["$defs"])
    for path in arguments[1:]:
        kinds |= of_crd(yaml.safe_load(Path(path).read_text()))
    for kind, version in (("Kustomization", "v1beta1"), ("Component", "v1alpha1")):
        api = f"kustomize.config.k8s.io/{version}"
        properties = {"apiVersion": {"enum": [api]}, "kind": {"enum": [kind]}, **KUSTOMIZE}
        kinds[f"{api} {kind}"] = {"type": "object", "properties": properties, "additionalProperties": False}
    found = {"kinds": dict(sorted(kinds.items())), "$defs": dict(sorted(used.items()))}
    TARGET.write_text(json.dumps(found, indent=None, separators=(",", ":"), sort_keys=True) + "\n")
    print(f"{TARGET.name}: {len(kinds)} kinds, {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
