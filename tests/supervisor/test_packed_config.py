"""The configuration as workers receive it, and what processes import for it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib

import pytest
from pydantic import BaseModel

from passerelle.config.loader import load_text
from passerelle.config.models.admin import AdminPort
from passerelle.config.models.base import Model
from passerelle.config.models.config import Config, Service
from passerelle.config.models.shadow import Shadow
from passerelle.supervisor.packed_config import pack, unpack
from tests.config.test_loader import FULL

MINIMAL = '{"services": {"u": {"targets": ["http://127.0.0.1:1"]}}, "routes": [{"path": "/", "service": "u"}]}'


def test_a_worker_receives_the_configuration_that_was_checked() -> None:
    config = load_text(FULL, elsewhere=True)
    received = unpack(pack(config))
    assert received == config and received.model_fields_set == config.model_fields_set
    for name, service in config.services.items():
        assert received.services[name].model_fields_set == service.model_fields_set
    for ours, theirs in zip(config.routes, received.routes, strict=True):
        assert ours.model_fields_set == theirs.model_fields_set


def test_a_worker_does_not_receive_the_secrets_of_backups() -> None:
    backup = {
        "databases": {"orders": "postgresql://u:of-the-database@db/orders"},
        "s3": {"secret_key": "of-the-storage"},
    }
    config = load_text(json.dumps({"backup": backup, **json.loads(MINIMAL)}), elsewhere=True)
    received = unpack(pack(config))
    assert config.backup is not None
    assert received == config.model_copy(update={"backup": None})
    plain = zlib.decompress(base64.b64decode(pack(config)))
    assert b"127.0.0.1" in plain
    assert b"of-the-" not in plain


@pytest.mark.parametrize("model", [Config, Service, AdminPort, Shadow])
def test_defaults_are_those_that_validation_gives(model: type[Model]) -> None:
    """Defaults of fields are made without a validator."""
    defaults = [field.default for field in model.model_fields.values() if isinstance(field.default, BaseModel)]
    assert defaults
    for default in defaults:
        again = type(default).model_validate(default.model_dump(exclude_unset=True))
        assert again == default and again.model_fields_set == default.model_fields_set


def test_no_process_imports_what_it_does_not_use() -> None:
    look = (
        "import sys, passerelle.cli.status;"
        "print([n for n in ('passerelle.supervisor.fleet', 'passerelle.config.loader') if n in sys.modules]);"
        "import passerelle.supervisor.worker_main;"
        "print([n for n in ('yaml', 'passerelle.config.loader', 'passerelle.config.checks') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-P", "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n[]\n"
