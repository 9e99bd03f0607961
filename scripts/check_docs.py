"""Check the documents against the project. Print one line for each fault; exit 1 if there is any.

- every link to a file of the repository, and to a heading in it, has a target;
- every page under docs/ can be reached from docs/index.md;
- every `make TARGET` and every `passerelle COMMAND` in the documents exists;
- every YAML example with routes is a configuration that the gateway accepts;
- docs/reference/configuration.md names every key of the configuration, and no other.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import passerelle.cli.main
from passerelle.config import Config, inspect_text

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path("docs/reference/configuration.md")

_FENCE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(
    r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE
)
_IMAGE = re.compile(r"(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")


def pages(root: Path) -> list[Path]:
    """Return the Markdown files of the repository, relative to ``root``."""
    found = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.md")]
    found += [*(root / "benchmarks").glob("*.md"), *(root / ".github").rglob("*.md")]
    return sorted(path.relative_to(root) for path in found)


def without_code(text: str) -> str:
    """Return the text without its code blocks."""
    return _FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Return the anchors that code hosts generate for the headings of a page, and those set explicitly."""
    found: set[str] = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in _HEADING.findall(without_code(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (slug if number == 0 else f"{slug}-{number}") in found:
            number += 1
        found.add(slug if number == 0 else f"{slug}-{number}")
    return found


def links(text: str) -> Iterator[str]:
    """Yield the targets of a page's links and images."""
    body = _CODE.sub("", without_code(text))
    for match in _LINK.finditer(body):
        yield match[1] or match[2]
    for match in _IMAGE.finditer(body):
        yield match[1]


def broken_links(root: Path, page: Path) -> Iterator[str]:
    """Yield the faults of the links of ``page`` that stay in the repository."""
    for link in links((root / page).read_text(encoding="utf-8")):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (root / page).parent / unquote(parts.path) if parts.path else root / page
        if not target.exists():
            yield f"{page}: link to {link}: there is no such file"
        elif not target.resolve().is_relative_to(root):
            yield f"{page}: link to {link}: outside the repository"
        elif (
            parts.fragment
            and target.suffix == ".md"
            and parts.fragment not in anchors(target.read_text(encoding="utf-8"))
        ):
            yield f"{page}: link to {link}: there is no such heading"


def unreachable(root: Path, found: list[Path]) -> Iterator[str]:
    """Yield the pages under docs/ that no chain of links from docs/index.md reaches."""
    seen: set[Path] = set()
    ahead = [root / "docs/index.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or not page.is_file():
            continue
        seen.add(page)
        for link in links(page.read_text(encoding="utf-8")):
            path = unquote(urlsplit(link).path)
            if path.endswith(".md"):
                ahead.append((page.parent / path).resolve())
    for page in found:
        if page.parts[0] == "docs" and root / page not in seen:
            yield f"{page}: not reachable from docs/index.md"


def commands_that_are_not(root: Path, page: Path, targets: set[str], commands: set[str]) -> Iterator[str]:
    """Yield the `make` targets and `passerelle` commands in ``page`` that do not exist."""
    text = (root / page).read_text(encoding="utf-8")
    shown = [match["text"] for match in _FENCE.finditer(text) if match["language"].strip() in ("", "sh", "console")]
    for code in [*_CODE.findall(without_code(text)), *(line for block in shown for line in block.splitlines())]:
        line = code.strip().removeprefix("$ ")
        for name, known in (("make", targets), ("passerelle", commands)):
            match = re.match(rf"{name} ([a-z][a-z-]*)", line)
            if match and match[1] not in known:
                yield f"{page}: `{name} {match[1]}` does not exist"


def refused_examples(root: Path, page: Path) -> Iterator[str]:
    """Yield the faults of the YAML examples in ``page`` that have routes."""
    text = (root / page).read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        example = match["text"]
        if match["language"].strip() not in ("yaml", "yml") or not re.search(r"^routes:", example, re.MULTILINE):
            continue
        line = text.count("\n", 0, match.start("text"))
        for problem in inspect_text(example, environ={}, elsewhere=True).errors:
            yield f"{page}:{line + problem.line}: {problem.key}: {problem.message}"


def keys(schema: dict[str, Any]) -> set[str]:
    """Return the names of all keys that a configuration may have, at any level."""
    models = [schema, *schema.get("$defs", {}).values()]
    return {name for model in models for name in model.get("properties", {})}


def untrue_reference(root: Path) -> Iterator[str]:
    """Yield keys that the reference lacks, and keys in its tables that do not exist."""
    path = root / REFERENCE
    if not path.is_file():
        yield f"{REFERENCE}: missing"
        return
    text = path.read_text(encoding="utf-8")
    known = keys(Config.model_json_schema())
    tables = re.findall(r"^\| key \|.*\n(?:\|.*\n?)+", text, re.MULTILINE)
    cells = [name for table in tables for name in re.findall(r"^\| *`([\w.\[\]]+)`", table, re.MULTILINE)]
    told = {name.split(".")[-1].split("[")[0] for name in cells}
    for name in sorted(known - told):
        yield f"{REFERENCE}: the key `{name}` is missing"
    for name in sorted(told - known):
        yield f"{REFERENCE}: there is no key `{name}`"


def main(root: Path = ROOT) -> int:
    """Check everything."""
    found = pages(root)
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = set(passerelle.cli.main.passerelle.list_commands(None))  # type: ignore[arg-type]
    wrong = [line for page in found for line in broken_links(root, page)]
    wrong += unreachable(root, found)
    for page in found:
        if page.name != "CHANGELOG.md":  # it may mention what was removed
            wrong += commands_that_are_not(root, page, targets, commands)
            wrong += refused_examples(root, page)
    wrong += untrue_reference(root)
    for line in wrong:
        print(line)
    print(f"{len(found)} pages, {len(wrong)} faults", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
