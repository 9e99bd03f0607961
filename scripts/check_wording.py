"""Check the prose of the project: documents, docstrings, comments and messages. Exit 1 if a refused phrase occurs.

Each refused phrase has a plain replacement (see CONTRIBUTING.md, "Words"). Phrases are found across line ends. In
Python files only comments and strings are checked, not names or single words.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# These quote refused phrases.
QUOTING = ("scripts/check_wording.py", "tests/machinery/test_scripts.py")
FOLDERS = ("src", "docs", "examples", "benchmarks", "scripts", "tests", ".github")

PHRASES = {
    r"who(ever)? (asks|asked|waits|waited|wants|wanted|needs|answers|answered|listens)": "the client, the waiter",
    "whoever": "the client, the caller, anyone who",
    r"(let|lets|letting) go of": "evict, invalidate, release, discard",
    r"(go|goes|going|went) by (a|an|the|its|this|another) (configuration|file|settings|limits|rules)": "apply, use",
    "anew": "again, reloaded",
    "nobody|somebody": "no client, no waiter, another worker: name it",
    "under way": "in flight, running",
    r"(is|are|was|were|be|been|being) told": "is notified, receives",
    r"told (of|to)": "notified of, configured to",
    r"tells (it|them|him|who|of)": "notifies, reports, states",
    r"says (so|who|of|nothing|it)": "states, reports",
    r"hears (of|the|from|nothing)": "receives, is notified of",
    r"heads that (differ|vary)": "varying request heads",
    r"has had its (time|turn)": "has timed out, was served",
    r"of its own accord": "by itself",
    r"carried out": "handled, executed, run",
}
_PATTERNS = [
    (re.compile(rf"(?<![\w-])(?:{phrase})(?![\w-])".replace(" ", r"[\s#]+"), re.IGNORECASE), instead)
    for phrase, instead in PHRASES.items()
]
# Inline code and code blocks are not prose.
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def blank(match: re.Match[str]) -> str:
    """Replace the match by spaces, keeping its line ends."""
    return re.sub(r"[^\n]", " ", match[0])


def prose(path: Path, text: str) -> str:
    """Return the prose of a file in its original positions, with everything else blanked."""
    if path.suffix != ".py":
        return _CODE.sub(blank, text)
    lines = [[" "] * len(line) for line in text.splitlines()]
    source = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING) or " " not in token.string:
            continue
        (first, start), (last, end) = token.start, token.end
        for number in range(first - 1, last):
            left = start if number == first - 1 else 0
            right = end if number == last - 1 else len(source[number])
            lines[number][left:right] = source[number][left:right]
    return "\n".join("".join(line) for line in lines)


def refused(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line number, the phrase and its replacement, for each refused phrase of a file."""
    body = prose(path, text)
    for pattern, instead in _PATTERNS:
        for match in pattern.finditer(body):
            yield body.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), instead


def files(root: Path) -> Iterator[Path]:
    """Yield the files that contain prose of the project."""
    quoting = {root / name for name in QUOTING}
    yield from sorted(root.glob("*.md"))
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".md", ".py", ".yaml", ".yml") and path not in quoting:
                yield path


def main(root: Path = ROOT) -> int:
    """Check all files below ``root``."""
    found = 0
    for path in files(root):
        for line, phrase, instead in sorted(refused(path, path.read_text("utf-8"))):
            found += 1
            print(f"{path.relative_to(root)}:{line}: '{phrase}': write {instead}")
    print(f"{found} refused phrases", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
