"""What the folder for Compose means: as Compose reads it, and as a container reads its file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from passerelle.config import Config, inspect_text
from passerelle.export import compose
from passerelle.export.deployment import Deployment

MINIMAL = {"targets": ["http://10.0.0.9:5000"]}


def exported(deployment: Deployment, **options: Any) -> compose.Folder:
    """Export a configuration; what Compose reads is what was to be written."""
    folder = compose.export(deployment, compose.Options(**options))
    assert folder.reads_back()
    return folder


def services(folder: compose.Folder) -> dict[str, Any]:
    """Return the services as Compose sees them, after it has replaced variables."""
    found: dict[str, Any] = interpolated(read(folder.files["compose.yaml"]))["services"]
    return found


def read(text: str) -> Any:
    """Parse YAML 1.1, by the parser in C."""
    return yaml.load(text, yaml.CSafeLoader)


def interpolated(value: Any) -> Any:
    """Replace `$$` as Compose does; there is no other dollar sign."""
    if isinstance(value, str):
        assert not re.search(r"\$", value.replace("$$", "")), value
        return value.replace("$$", "$")
    if isinstance(value, dict):
        return {key: interpolated(item) for key, item in value.items()}
    return [interpolated(item) for item in value] if isinstance(value, list) else value


def secret_text(name: str) -> str:
    """Return the content of a secret file in tests: long enough for a key, and different for each."""
    return f"{name.replace('.', '-')}-0123456789-0123456789-0123456789-0123456789"


def in_container(
    folder: compose.Folder, root: Path, contents: dict[str, str] | None = None, job: str = "gateway"
) -> Config:
    """Load the file of the gateways, or of another job, as its container has it: `root` is the root of its files."""
    document = read(folder.files["compose.yaml"])
    for used in document["services"]["gateway-1" if job == "gateway" else job].get("secrets", ()):
        place = root / used["target"].lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text((contents or {}).get(used["source"], secret_text(used["source"])) + "\n")
    text = folder.files[f"{job}/gateway.yaml"].replace("${file:/", f"${{file:{root}/")
    report = inspect_text(text, "gateway.yaml", {}, root / "etc/passerelle", elsewhere=True)
    assert report.config is not None, report.errors
    return report.config
