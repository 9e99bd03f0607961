"""Values as YAML that every parser reads as they are: texts such as `yes`, `0123` and `1e3` stay texts."""

from __future__ import annotations

import re
from typing import Any

import yaml

_PLAIN = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(?:[./+-][A-Za-z0-9_]+)*").fullmatch
# YAML 1.1 and 1.2 read these words as null and booleans, in any case.
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


class Written(str):
    """A scalar that is written without quotes, exactly as it stands in another YAML file."""

    __slots__ = ()


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN(text) and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


def _written(dumper: yaml.CSafeDumper, text: Written) -> yaml.ScalarNode:
    # The tag that the dumper itself would give it, so that it adds no quotes.
    resolver: Any = dumper
    return dumper.represent_scalar(resolver.resolve(yaml.ScalarNode, str(text), (True, False)), str(text))


_Dumper.add_representer(str, _text)
_Dumper.add_representer(Written, _written)


def dump(document: object) -> str:
    """Write mappings, lists, texts, numbers and booleans as YAML, in their order."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return text
