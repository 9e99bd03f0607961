"""Pages as programs: their code blocks as files and commands, and a shell that runs them.

A block belongs to the page's run if it is ``console`` (lines with ``$ `` are commands, the lines below are their
output) or ``sh`` (each line is a command). Comments that readers do not see stand before a block:

- ``<!-- file: NAME -->``: the block is written to NAME in the current folder of the shell;
- ``<!-- not run: REASON -->``: its commands are not run;
- ``<!-- exits: N -->``: its last command exits with N instead of 0;
- ``<!-- eventually: REASON -->``: its commands are repeated until they exit with 0 and have the output of the page.

Output is compared line by line. ``…`` stands for any text, a line of ``…`` for any lines, and what differs from run to
run (times, ports, process ids, request ids) matches its like.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from passerelle.system import ports

ROOT = Path(__file__).parents[2]
SECONDS = 45.0  # for one command

_BLOCK = re.compile(
    r"(?:^<!-- (?P<name>file|not run|exits|eventually): (?P<value>[^\n]*?) -->\n\n?)?"
    r"^(?P<fence>`{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_SERVERS = re.compile(r"(passerelle (up|gateway|proxy)|python manage\.py runserver|flask .*\brun)\b")
# What is never the same twice: a time, a number of four digits or more, an id of a request, a digest.
_VOLATILE = re.compile(r"\d+(?:\.\d+)? (?:ms|s)\b|\d+\.\d+|\b\d{4,}\b|\b[0-9a-f]{12}-\w+\b|\b[0-9a-f]{16,}\b")
_LIKE = r"(?:\d+(?:\.\d+)?(?: (?:ms|s)\b)?|[0-9a-f]+(?:-\w+)?)"


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of a page, with the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    name: str
    value: str

    @property
    def is_run(self) -> bool:
        """Whether its commands are run."""
        return self.language in ("console", "sh") and self.name != "not run"

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands of the block, each with the lines of its output."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if self.language == "sh":
                if line.strip() and not line.startswith("#"):
                    found.append((line, []))
            elif line.startswith("$ "):
                found.append((line[2:], []))
            elif line.startswith("> ") and found and found[-1][0].endswith("\\"):
                found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
            elif found:
                found[-1][1].append(line)
        return found


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page."""
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("fence")) + 1
        yield Block(page, line, match["language"], match["text"], match["name"] or "", match["value"] or "")


def differs(expected: list[str], found: list[str]) -> str | None:
    """Return how the output of a command differs from the page, or None."""
    pattern = ""
    for line in expected:
        if line.strip() == "…":
            pattern += r"(?:[^\n]*\n)*?"
            continue
        parts = []
        for piece in line.split("…"):
            start = 0
            words = []
            for match in _VOLATILE.finditer(piece):
                words += [re.escape(piece[start : match.start()]), _LIKE]
                start = match.end()
            words.append(re.escape(piece[start:]))
            parts.append(re.sub(r"(?:\\ )+", r"[ ]+", "".join(words)))
        pattern += "[^\n]*".join(parts) + r"[ ]*\n"
    text = "".join(f"{line}\n" for line in found)
    if re.fullmatch(pattern, text):
        return None
    return "expected:\n" + "\n".join(expected) + "\nfound:\n" + text


def free_ports(*written: str) -> dict[str, str]:
    """Return a free port for each port of a page. No outgoing connection takes one of them before a server binds it."""
    taken: list[int] = []
    for _ in written:
        taken.append(ports.free(taken))
    return dict(zip(written, map(str, taken), strict=True))


class Shell:
    """A shell in ``folder`` that runs the blocks of a page in turn.

    ``replaced`` maps texts of the page to those of this run, such as ports. A server is started in the background, and
    the next command waits until it listens.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], replaced: Mapping[str, str]) -> None:
        self.folder = folder
        self.replaced = replaced
        self.count = 0
        self.servers: list[Path] = []
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        """End the shell and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def of_this_run(self, text: str) -> str:
        """Replace what differs in this run."""
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return text

    def send(self, command: str) -> tuple[int, list[str]]:
        """Run a command; return its exit code and the lines of its output."""
        self.count += 1
        mark = f"<<{self.count}>>"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{{ {command}\n}} 2>&1 </dev/null\nprintf '\\n%s %d\\n' '{mark}' $?\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith(mark):
                # The line end before the mark ended the last line, or added an empty one.
                return int(line.split()[1]), lines[:-1] if lines and not lines[-1] else lines
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"the shell ended in: {command}\n" + "\n".join(lines))

    def run(self, block: Block) -> int:
        """Write the file of a block, or run its commands. Return the number of commands."""
        where = f"{block.page.relative_to(ROOT)}:{block.line}"
        if block.name == "file":
            self.write(block.value, self.of_this_run(block.text))
            return 0
        commands = block.commands
        for number, (written, output) in enumerate(commands):
            command = self.of_this_run(written)
            if _SERVERS.match(command):
                self.start(command)
                continue
            wanted = int(block.value) if block.name == "exits" and number == len(commands) - 1 else 0
            expected = [self.of_this_run(line) for line in output]
            deadline = time.monotonic() + (SECONDS if block.name == "eventually" else 0.0)
            while (fault := self.fault(command, wanted, expected)) is not None:
                assert time.monotonic() < deadline, f"{where}: {command}\n{fault}"
        return len(commands)

    def fault(self, command: str, wanted: int, expected: list[str]) -> str | None:
        """Run a command; return how its exit code or its output differs."""
        code, lines = self.send(command)
        if code != wanted:
            return f"exit code {code}\n" + "\n".join(lines)
        return differs(expected, lines) if expected else None

    def write(self, name: str, text: str) -> None:
        """Write a file in the current folder of the shell."""
        here = Path(self.send("pwd")[1][-1])
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text, "utf-8")

    def start(self, command: str) -> None:
        """Start a server, and wait until it listens."""
        log = self.folder / f"server-{len(self.servers)}.log"
        log.touch()
        self.servers.append(log)
        assert self.send(f"{command} >{shlex.quote(os.fspath(log))} 2>&1 &")[0] == 0
        deadline = time.monotonic() + SECONDS
        while "listening on" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            assert self.send("kill -0 $!")[0] == 0, f"{command}: ended\n{log.read_text()}"
            time.sleep(0.1)

    def stop(self) -> int:
        """Stop the last server with Ctrl-C; return its exit code."""
        return self.send("kill -INT $! && wait $!")[0]
