"""The JSON Schema agrees with the models."""

from __future__ import annotations

import re
from typing import Any

from passerelle.config.models import config as models
from passerelle.config.models.base import Model
from passerelle.config.models.config import Config
from passerelle.config.problems import model_at
from passerelle.config.schema import default_text, json_schema

SCHEMA = json_schema()
MODELS = {
    name: value
    for name, value in vars(models).items()
    if isinstance(value, type) and issubclass(value, Model) and value is not Model and name[0] != "_"
}


def definition(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA if name == "Config" else SCHEMA["$defs"][name]
    return found


def properties(name: str) -> dict[str, Any]:
    """Return the properties of a model; models with a short form have them in one of their alternatives."""
    options = [definition(name), *definition(name).get("anyOf", ())]
    (found,) = (option["properties"] for option in options if "properties" in option)
    return found


def test_the_schema_has_exactly_the_keys_of_the_models() -> None:
    for name in ("Config", "Limits", "Service", "Target", "Zone", "Health", "Route", "Part", "OnError"):
        model = getattr(models, name)
        assert list(definition(name)["properties"]) == list(model.model_fields), name
        assert definition(name)["additionalProperties"] is False
        required = [key for key, field in model.model_fields.items() if field.is_required()]
        if name == "Config":  # what it requires may be in included files
            assert SCHEMA["anyOf"] == [{"required": required}, {"required": ["include"]}]
        else:
            assert definition(name).get("required", []) == required
        for key, field in definition(name)["properties"].items():
            assert field.get("description") or "$ref" in field, f"{name}.{key}"


def test_every_description_is_a_sentence_that_an_editor_can_show() -> None:
    found = {"the file": SCHEMA["description"]}
    for name in MODELS:
        found |= {f"{name}.{key}": field.get("description", "") for key, field in properties(name).items()}
    assert len(found) > 200
    for place, text in found.items():
        assert re.match(r"[A-Z`]", text), place
        assert text.endswith("."), place
        assert "](" not in text.replace("](https://", ""), place
        assert "\n" not in text and "  " not in text, place


def test_defaults_are_written_as_in_the_file() -> None:
    for name, model in MODELS.items():
        for key, field in properties(name).items():
            default = default_text(model.model_fields[key])
            shown = model.model_fields[key].default if field.get("type") == "boolean" else default
            assert field.get("default") == shown, f"{name}.{key}"
    limits = {
        "head": "32KiB",
        "headers": 100,
        "body": "10MiB",
        "head_timeout": "10s",
        "idle_timeout": "75s",
        "body_timeout": "30s",
        "body_rate": "240B",
        "write_timeout": "1m",
        "connections": 10000,
    }
    assert {key: properties("Limits")[key]["default"] for key in limits} == limits
    assert "default" not in properties("Limits")["connections_per_address"]
    numbers = {("Redirect", "status"): 307, ("Respond", "status"): 200, ("Rollout", "slower"): 1.5}
    assert {place: properties(place[0])[place[1]]["default"] for place in numbers} == numbers
    service = definition("Service")["properties"]
    policy = definition("Balance")["anyOf"][0]
    assert (service["connect_timeout"]["default"], policy["default"]) == ("2s", "p2c")
    assert definition("Retries")["properties"]["budget"]["default"] == "20%"
    assert (SCHEMA["properties"]["listen"]["default"], "default" in SCHEMA["properties"]["limits"]) == (
        *("127.0.0.1:8080", False),
    )


def test_null_is_allowed_for_on_error_only() -> None:
    def nulls(node: Any, path: str) -> list[str]:
        if isinstance(node, dict):
            here = [path] if node.get("type") == "null" else []
            return here + [found for key, value in node.items() for found in nulls(value, f"{path}.{key}")]
        return [found for value in node for found in nulls(value, path)] if isinstance(node, list) else []

    assert nulls(SCHEMA, "") == [".$defs.Part.properties.on_error.anyOf"]


def test_variables_are_allowed_for_every_constrained_value() -> None:
    def forms(node: Any) -> None:
        if isinstance(node, dict):
            for field in node.get("properties", {}).values():
                for leaf in (field, field.get("items", {})):
                    if not leaf.keys() & {"pattern", "enum", "minimum"}:
                        continue
                    raise AssertionError(f"{leaf} does not allow a variable")
            for value in node.values():
                forms(value)

    forms(SCHEMA)
    assert re.search(SCHEMA["$defs"]["Substitution"]["pattern"], "a${X}")


def test_models_are_found_by_their_place() -> None:
    assert model_at(()) is Config
    assert model_at(("services", "x", "zones", "a", "targets", 3)) is models.Target
    assert model_at(("routes", 1, "compose", "k", "on_error")) is models.OnError
    assert model_at(("routes", 1, "path")) is None
    assert model_at(("services", "x", "env")) is None
    assert model_at(("nope",)) is None
    assert model_at(("trusted_proxies", 0, "x")) is None
