"""Jobs of the export to Kubernetes: migrations and backups."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from passerelle.export.kubernetes_file import BACKUP, ClusterFile
from passerelle.export.kubernetes_pods import (
    CONFIG_FILE,
    CONFIG_FOLDER,
    Manifest,
    Options,
    Workload,
    config_mounts,
    config_volumes,
    environment,
    literal,
    manifest,
    pod,
    service_environment,
)
from passerelle.export.moved_backup import VOLUME

_DAY = 86_400
_LABEL_VALUE = 63


def migration(workload: Workload, options: Options) -> Manifest:
    """Return the job that prepares the database of a service. Its name changes with it: jobs are not changed."""
    container = {
        "name": "migration",
        "image": options.image_of(workload.name),
        "command": [literal(word) for word in options.migrations[workload.name]],
        "workingDir": workload.folder,
        "env": service_environment(workload),
        "envFrom": [{"secretRef": {"name": f"{workload.label}-env", "optional": True}}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
    }
    spec: Manifest = {"backoffLimit": 5, "ttlSecondsAfterFinished": 7 * _DAY, "activeDeadlineSeconds": 3600}
    digest = hashlib.sha256(json.dumps([workload.label, container], sort_keys=True).encode()).hexdigest()[:8]
    label = f"migrate-{workload.label}"[: _LABEL_VALUE - 9].rstrip("-") + f"-{digest}"
    spec["template"] = pod(label, "migration", container, restartPolicy="OnFailure")
    return manifest("batch/v1", "Job", label, "migration", spec=spec)


def backup(file: ClusterFile, image: str, schedule: str, *, to_volume: bool) -> Iterator[Manifest]:
    """Yield the job that makes backups, and the volume that it writes to unless it writes to a bucket."""
    mounts, volumes = config_mounts(file), config_volumes(file)
    if to_volume:
        mounts.append({"name": "backups", "mountPath": VOLUME})
        volumes.append({"name": "backups", "persistentVolumeClaim": {"claimName": BACKUP}})
    container = {
        "name": "backup",
        "image": image,
        "command": ["passerelle", "backup", f"{CONFIG_FOLDER}/{CONFIG_FILE}"],
        "env": environment(file),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "volumeMounts": mounts,
    }
    template = pod(BACKUP, "backup", container, volumes, restartPolicy="OnFailure")
    spec = {
        "schedule": schedule,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": {"backoffLimit": 2, "activeDeadlineSeconds": 3600, "template": template}},
    }
    yield manifest("batch/v1", "CronJob", BACKUP, "backup", spec=spec)
    if to_volume:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}
        yield manifest("v1", "PersistentVolumeClaim", BACKUP, "backup", spec=spec)
