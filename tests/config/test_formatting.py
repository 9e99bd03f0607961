"""The canonical form of the file: order, indentation, comments; what it means never changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.config import load_text
from passerelle.config.formatting import CannotFormat, _content, reformat
from passerelle.config.models.config import Config, Route
from passerelle.config.reading import yaml_tree

ROOT = Path(__file__).parents[2]

BEFORE = """\
# About this file.

# Where requests go.
routes:
- service: user   # the only one
  # users by number
  path: '/user/{id}'
  cache: {tags: [a],
          ttl: 5s}   # short

# The rest.
- {service: user, path: /}
services:
    user:
        # one instance
        health: {path: /healthz}
        targets: ['http://127.0.0.1:5000']
        # no second one
listen: 127.0.0.1:8080


admin: off # no metrics
# The end.
"""
AFTER = """\
# About this file.

listen: 127.0.0.1:8080

admin: off # no metrics

services:
  user:
    targets: ["http://127.0.0.1:5000"]
    # one instance
    health: {path: /healthz}
    # no second one

# Where requests go.
routes:
  # users by number
  - path: "/user/{id}"
    service: user # the only one
    cache: {tags: [a],
      ttl: 5s} # short

  # The rest.
  - {path: /, service: user}
# The end.
"""


def test_keys_are_ordered_and_comments_stay_with_them() -> None:
    assert reformat(BEFORE) == AFTER
    assert reformat(AFTER) == AFTER


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a: True\r\nb: ~\r\n", "a: true\nb: ~\n"),
        ("a:\n  - b\n\n\n\n  - c\n\n", "a:\n  - b\n\n  - c\n"),
        ("a: |+\n   one\n     # two\n\nb: 1\n", "a: |+\n  one\n    # two\n\nb: 1\n"),
        ("a: >- # note\n     one\n     two\n", "a: >- # note\n  one\n  two\n"),
        ("a: 'it''s'\nb: 'c\\d'\n", "a: 'it''s'\nb: 'c\\d'\n"),
        ("a: one\n   two\n", "a: one\n  two\n"),
        ("a:\n    b:\n", "a:\n  b:\n"),
        ("a: [1,2,  {c: 3,b: 4}]", "a: [1, 2, {c: 3, b: 4}]\n"),
        ("a:\n-\n    b: 1\n    c: 2\n", "a:\n  - b: 1\n    c: 2\n"),
        ("b: 1\na: &x {d: 1}\nc:   *x\n", "b: 1\na: &x {d: 1}\nc:   *x\n"),
        ("---\nb:   1\n", "---\nb:   1\n"),
        ("{b: 1, a: 2}\n", "{b: 1, a: 2}\n"),
        ("# yaml-language-server: $schema=x\n# of routes\nroutes: []\nlisten: a\n",
         "# yaml-language-server: $schema=x\nlisten: a\n# of routes\nroutes: []\n"),
    ],
)  # fmt: skip
def test_spelling(text: str, made: str) -> None:
    assert reformat(text) == made
    assert reformat(made) == made


def test_what_users_name_keeps_its_order() -> None:
    names = "services:\n  b: {targets: ['http://h:1']}\n  a: {targets: ['http://h:2']}\n"
    assert list(yaml_tree_keys(reformat(names))) == ["b", "a"]
    parts = "routes:\n  - compose:\n      z: {path: /z, service: s}\n      a: {path: /a, service: s}\n    path: /x\n"
    made = reformat(parts)
    assert made.index("z:") < made.index(" a:") and made.index("path: /x") < made.index("compose")


def yaml_tree_keys(text: str) -> list[str]:
    root = yaml_tree.parse(text)[0]
    assert isinstance(root, yaml_tree.YamlMapping)
    inner = next(iter(root.items.values()))[1]
    assert isinstance(inner, yaml_tree.YamlMapping)
    return list(inner.items)


def test_profiles_have_the_order_of_the_file() -> None:
    text = "profiles:\n  test:\n    workers: 2\n    listen: 127.0.0.1:1\n"
    assert reformat(text) == "profiles:\n  test:\n    listen: 127.0.0.1:1\n    workers: 2\n"


def test_a_key_that_occurs_twice_is_an_error() -> None:
    with pytest.raises(yaml_tree.SyntaxProblem, match="the key 'a' occurs twice") as raised:
        reformat("a: 1\na: 2\n")
    assert (raised.value.line, raised.value.column) == (2, 1)


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(CannotFormat, match="line 1: a comment stands between a key and its value"):
        reformat("a: # here\n  text\n")


def pages() -> list[str]:
    """Return all YAML of the examples and of the reference of the configuration."""
    texts = [path.read_text("utf-8") for path in sorted((ROOT / "examples").rglob("gateway*.yaml"))]
    page = (ROOT / "docs/reference/configuration.md").read_text("utf-8")
    return texts + re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_examples_and_the_reference_keep_their_meaning_and_comments() -> None:
    found = pages()
    assert len(found) > 50
    for text in found:
        made = reformat(text)
        assert reformat(made) == made
        assert _content(yaml_tree.parse(made)[0]) == _content(yaml_tree.parse(text)[0])
        assert made.count("#") == text.count("#")


def test_the_loaded_configuration_is_the_same() -> None:
    text = (ROOT / "examples/shop/gateway.yaml").read_text("utf-8")
    before, after = (load_text(each, folder=ROOT / "examples/shop") for each in (text, reformat(text)))
    assert {key: getattr(before, key) for key in Config.model_fields} == {
        key: getattr(after, key) for key in Config.model_fields
    }


WORDS = st.text("ab #:'\"{}[],-|>\\é!&*%@?", max_size=6)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(list(Route.model_fields)[:12]), PLAIN, min_size=1, max_size=5),
    st.booleans(),
    st.integers(1, 5),
)
def test_any_content_is_kept(route: dict[str, Any], flow: bool, indent: int) -> None:
    import yaml

    # The dumper of YAML 1.1 quotes whatever 1.2 would read in another way, but for such words.
    text = yaml.safe_dump({"routes": [route]}, default_flow_style=flow or None, indent=indent, allow_unicode=True)
    made = reformat(text)
    assert _content(yaml_tree.parse(made)[0]) == _content(yaml_tree.parse(text)[0])
    assert reformat(made) == made
