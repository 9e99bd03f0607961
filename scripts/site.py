"""Build the documentation site into build/site, with every warning an error; ``--serve`` shows it on a local port.

The pages are those that code hosts show: docs/ and the pages beside it that docs/ links to. They are copied to
build/pages with their links rewritten to the places on the site, and Zensical (zensical.toml) makes the site from them.
Files that are no pages, such as configurations of examples, are copied as they are. The navigation follows the lists of
docs/index.md: each heading is a tab, and a line that ends with a colon names a group. Afterwards the site is checked:
nothing is loaded from another host, and each page is in the navigation.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import relpath
from urllib.parse import unquote, urlsplit

from passerelle.config.schema import json_schema

ROOT = Path(__file__).resolve().parent.parent
PAGES = Path("build/pages")
SITE = Path("build/site")
SCHEMA = Path("schema/gateway.json")  # on the site, for editors
CONFIG = Path("build/zensical.toml")
# Pages outside of docs/, with their places on the site.
BESIDE = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "examples/shop/README.md": "tutorial/shop.md",
}
FILES = "files"  # the folder of everything else that a page links to

_LINK = re.compile(r"(\]\(\s*<?|\]:\s+<?|(?:src|srcset|href)=\")([^()\s>\"]+)")
_CODE = re.compile(r"(^(?P<fence>`{3,}).*?^(?P=fence)[ \t]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
# What a browser loads by itself; links that a reader follows may lead anywhere.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|audio|video)\b[^>]*?\bsrc(?:set)?=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preload|preconnect|icon))[^>]*?href=[\"']?((?:https?:)?//[^\"'\s>]+)"
)
_LOADED_BY_STYLE = re.compile(r"(?:@import\s+|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)")


def place(path: PurePosixPath) -> PurePosixPath:
    """Return the place on the site of a file of the repository."""
    if str(path) in BESIDE:
        return PurePosixPath(BESIDE[str(path)])
    if path.parts[0] == "docs":
        return path.relative_to("docs")
    return PurePosixPath(FILES) / path


def rewritten(root: Path, page: PurePosixPath, text: str, linked: set[PurePosixPath]) -> str:
    """Return the text of a page with its links changed to places on the site; add their targets to ``linked``."""

    def link(match: re.Match[str]) -> str:
        parts = urlsplit(match[2])
        if parts.scheme or parts.netloc or not parts.path:
            return match[0]
        found = (root / page.parent / unquote(parts.path)).resolve()
        if not found.is_relative_to(root):
            return match[0]  # Zensical reports it
        target = PurePosixPath(found.relative_to(root).as_posix())
        linked.add(target)
        there = relpath(str(place(target)), str(place(page).parent))
        return match[1] + there + (f"#{parts.fragment}" if parts.fragment else "")

    pieces = _CODE.split(text)
    # Of the two groups of _CODE, the inner one is the fence.
    return "".join(
        _LINK.sub(link, piece) if number % 3 == 0 else piece for number, piece in enumerate(pieces) if number % 3 != 2
    )


def assemble(root: Path, target: Path) -> None:
    """Copy the pages, and the files that they link to, below ``target``."""
    pages = [PurePosixPath(path.relative_to(root).as_posix()) for path in sorted((root / "docs").rglob("*.md"))]
    linked: set[PurePosixPath] = set()
    for page in [*pages, *(PurePosixPath(name) for name in BESIDE if (root / name).is_file())]:
        text = rewritten(root, page, (root / page).read_text("utf-8"), linked)
        path = target / place(page)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    assets = {PurePosixPath(path.relative_to(root).as_posix()) for path in (root / "docs").rglob("*") if path.is_file()}
    for file in sorted(linked | assets):
        path = target / place(file)
        if (root / file).is_file() and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, path)


def navigation(root: Path) -> list[tuple[str, str, str, str]]:
    """Return the pages in the order of docs/index.md, each as (tab, group or "", title, place)."""
    index = PurePosixPath("docs/index.md")
    found = [("Home", "", "Home", "index.md")]
    tab = group = ""
    for block in rewritten(root, index, (root / index).read_text("utf-8"), set()).split("\n\n"):
        if block.startswith("## "):
            tab, group = block[3:].strip(), ""
        elif re.fullmatch(r"[^\n]{1,40}:\s*", block):
            group = block.strip().rstrip(":")
        elif block.startswith("- ") and tab:
            links = re.findall(r"(?<!`)\[([^\]]+)\]\(([^)#]+\.md)(?:#[^)]*)?\)", block)
            found += [(tab, group, " ".join(title.split()), page) for title, page in links]
    return found


def as_toml(pages: list[tuple[str, str, str, str]]) -> str:
    """Return a navigation as the value of ``nav``."""
    tabs: dict[str, dict[str, list[str]]] = {}
    for tab, group, title, page in pages:
        tabs.setdefault(tab, {}).setdefault(group, []).append(f"{{{json.dumps(title)} = {json.dumps(page)}}}")
    lines = []
    for tab, groups in tabs.items():
        items = [
            item
            for group, inside in groups.items()
            for item in (inside if not group else [f"{{{json.dumps(group)} = [{', '.join(inside)}]}}"])
        ]
        lines.append(f"  {{{json.dumps(tab)} = [{', '.join(items)}]}},\n" if tab != "Home" else f"  {items[0]},\n")
    return f"nav = [\n{''.join(lines)}]"


def faults(pages: Path, site: Path, named: set[str]) -> Iterator[str]:
    """Yield what is wrong with a built site. ``named`` are the pages of its navigation."""
    found = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    yield from (f"docs/index.md: no list has a link to {page}" for page in sorted(found - named))
    for path in sorted(site.rglob("*.html")):
        for match in _LOADED.finditer(path.read_text("utf-8")):
            yield f"{path.relative_to(site)}: loads {match[1] or match[2]}"
    for path in sorted(site.rglob("*.css")):
        for match in _LOADED_BY_STYLE.finditer(path.read_text("utf-8")):
            yield f"{path.relative_to(site)}: loads {match[1]}"


def main(argv: list[str], root: Path = ROOT) -> int:
    """Build the site of the repository at ``root``; with ``--serve``, serve it."""
    for folder in (PAGES, SITE):
        shutil.rmtree(root / folder, ignore_errors=True)
    assemble(root, root / PAGES)
    (root / PAGES / SCHEMA).parent.mkdir()
    (root / PAGES / SCHEMA).write_text(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    pages = navigation(root)
    config = (root / "zensical.toml").read_text("utf-8")
    (root / CONFIG).write_text(re.sub(r"^nav = .*$", lambda _: as_toml(pages), config, flags=re.MULTILINE), "utf-8")
    program = Path(sys.executable).parent / "zensical"
    command = ["serve"] if "--serve" in argv else ["build", "--clean", "--strict"]
    done = subprocess.run([program, *command, "--config-file", root / CONFIG], cwd=root / CONFIG.parent, check=False)
    if done.returncode or "--serve" in argv:
        return done.returncode
    wrong = list(faults(root / PAGES, root / SITE, {page for *_, page in pages}))
    if not (root / SITE / SCHEMA).exists():
        wrong.append(f"{SCHEMA} is not on the site")
    for line in wrong:
        print(line)
    print(f"build/site: {sum(1 for _ in (root / SITE).rglob('*.html'))} pages, {len(wrong)} faults", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
