"""A configuration file in two forms: nodes with their positions, and plain data to validate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passerelle.config.problems import Finding, Loc, Problem, key_of
from passerelle.config.reading import yaml_tree
from passerelle.config.reading.substitute import substitute

_SECRETS = (
    *(
        ("jwt", "secret"),
        ("oidc", "client_secret"),
        ("identity_token", "secret"),
        ("admin", "token"),
        ("alerts", "webhook", "secret"),
    ),
    *(("backup", "s3", "access_key"), ("backup", "s3", "secret_key")),
)


class ConfigSource:
    """A configuration file as nodes and as plain data, with the problems found so far.

    ``texts`` has the text of each file by the name that its nodes have: the main one has none.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        file: str,
        root: yaml_tree.YamlNode,
        environ: Mapping[str, str],
        folder: Path,
        *,
        elsewhere: bool = False,
    ) -> None:
        self.file = file
        self.folder = folder
        self.problems: list[Problem] = []
        # Problems of this machine only, if the file is for another one.
        self.elsewhere: list[Problem] = []
        self._elsewhere = elsewhere
        # Places with a reported problem.
        self.broken: set[Loc] = set()
        # Places of values from secret files, and of what contains them (a command, a target): never shown.
        self._secret: set[Loc] = set()
        self._around_secret: set[Loc] = set()
        self._lines = {name: text.split("\n") for name, text in texts.items()}
        self._root = root
        self._environ = environ
        self.data = self._convert(root, ())

    @property
    def context(self) -> dict[str, object]:
        """The context for the validators of pydantic."""
        return {"folder": self.folder}

    def report(self, finding: Finding) -> None:
        """Add a problem, unless its place already has one."""
        loc = finding.loc
        above = [loc[:length] for length in range(1, len(loc) + 1)]
        if not self.broken.isdisjoint(above):
            return
        if not finding.at_key and (loc in self._around_secret or not self._secret.isdisjoint(above)):
            message = "the content of the secret file is not allowed here (it is not shown)"
            finding = Finding(loc, message, here=finding.here)
        problems = self.elsewhere if finding.here and self._elsewhere else self.problems
        problems.append(self.problem(finding))

    def may_show(self, loc: Loc) -> bool:
        """Whether the value at ``loc`` may be repeated in a message: it does not contain a secret file."""
        inside = any(secret[: len(loc)] == loc for secret in self._secret)
        return not inside and self._secret.isdisjoint(loc[:length] for length in range(1, len(loc) + 1))

    def problem(self, finding: Finding) -> Problem:
        """Add the position in the file to a finding."""
        return locate(self._root, self.file, finding)

    def _convert(self, node: yaml_tree.YamlNode, loc: Loc) -> Any:
        if isinstance(node, yaml_tree.YamlMapping):
            return {key: self._convert(value, (*loc, key)) for key, (_, value) in node.items.items()}
        if isinstance(node, yaml_tree.YamlSequence):
            return [self._convert(item, (*loc, index)) for index, item in enumerate(node.items)]
        assert isinstance(node, yaml_tree.YamlScalar)
        return self._scalar(node, loc)

    def _scalar(self, node: yaml_tree.YamlScalar, loc: Loc) -> Any:
        text = node.text
        if "$" in text:
            filled = substitute(text, self._environ, self.folder)
            for nth, message in filled.problems:
                line, column = self._dollar(node, nth)
                self.problems.append(Problem(node.file or self.file, line, column, key_of(loc), message))
                self.broken.add(loc)
            text = filled.text
            if filled.secret:
                self._secret.add(loc)
                self._around_secret.update(loc[:length] for length in range(3, len(loc)))
        # The words of a command and the values of the environment are always text: 1.10 stays 1.10. So are secrets:
        # an error about a number would show them.
        in_service = len(loc) == 4 and loc[0] == "services" and loc[2] in ("run", "env")
        in_version = len(loc) == 6 and loc[0] == "services" and loc[2] == "versions" and loc[4] in ("run", "env")
        of_key = len(loc) == 4 and loc[:2] == ("keys", "fixed") and loc[3] in ("key", "sha256")
        if node.quoted or in_service or in_version or of_key or loc in _SECRETS:
            return text
        value = yaml_tree.resolve(text)
        if value is None and loc and not _may_be_null(loc) and loc not in self.broken:
            below = ", indented below it," if loc in (("services",), ("routes",)) else ""
            self.report(Finding(loc, f"found nothing; give it a value{below} or remove the key"))
            self.broken.add(loc)
        return value

    def _dollar(self, node: yaml_tree.YamlScalar, nth: int) -> tuple[int, int]:
        """Return the 1-based line and column of the ``nth`` dollar sign of a scalar."""
        line, column, lines = node.line - 1, node.column - 1, self._lines[node.file]
        while (line, column) < node.end and line < len(lines):
            found = lines[line].find("$", column)
            if found < 0:
                line, column = line + 1, 0
            elif nth:
                nth, column = nth - 1, found + 1
            else:
                return line + 1, found + 1
        return node.line, node.column


def locate(root: yaml_tree.YamlNode, file: str, finding: Finding) -> Problem:
    """Add the position in the file to a finding. ``root`` is the parsed text of ``file``."""
    node = root
    key: yaml_tree.YamlNode | None = None
    known = 0
    loc = finding.loc
    for step in finding.loc:
        if step == 0 and isinstance(node, yaml_tree.YamlMapping) and "0" not in node.items:
            loc = (*loc[:known], *loc[known + 1 :])  # a single value in place of a list of one item
            continue
        if isinstance(node, yaml_tree.YamlMapping) and step in node.items:
            key, node = node.items[str(step)]
        elif isinstance(node, yaml_tree.YamlSequence) and isinstance(step, int) and step < len(node.items):
            key, node = None, node.items[step]
        else:
            break
        known += 1
    if known < len(loc):
        # The place does not exist: a key is missing, or the value is in its short form.
        if isinstance(node, yaml_tree.YamlScalar):
            loc = loc[:known]
        place = node if isinstance(node, yaml_tree.YamlScalar) or key is None else key
    else:
        place = key if finding.at_key and key is not None else node
    return Problem(place.file or file, place.line, place.column, key_of(loc), finding.message)


def _may_be_null(loc: Loc) -> bool:
    if loc[0] != "routes" or len(loc) < 5 or loc[2] != "compose":
        return len(loc) > 4 and (loc[0], *loc[2:4]) == ("routes", "respond", "body")
    return loc[4] == "on_error" and (len(loc) == 5 or (len(loc) > 5 and loc[5] == "value"))
