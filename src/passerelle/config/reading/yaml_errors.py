"""Explanations of YAML syntax errors: where to change the file, and how."""

from __future__ import annotations

import re

import yaml

_QUOTE = "put the value in quotes"
_GLUED_DASH = re.compile(r" *-[A-Za-z_]+:( |$)").match


def explain(text: str, error: yaml.MarkedYAMLError) -> tuple[int, int, str]:
    """Return the 1-based line and column to change, and a message that states what to change."""
    problem, context = str(error.problem), str(error.context or "")
    mark = error.problem_mark or error.context_mark
    opened = error.context_mark or mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    lines = text.split("\n")
    here = lines[line - 1] if line <= len(lines) else ""
    if "\t" in _blanks(here):
        return line, column, "found a tab in the indentation; YAML is indented with spaces"
    dash = next(
        (number for number in (line, line - 1) if 0 < number <= len(lines) and _GLUED_DASH(lines[number - 1])), None
    )
    if dash is not None:
        width = len(_blanks(lines[dash - 1]))
        return dash, width + 1, "found '-' without a blank after it; an item of a list begins with '- '"
    if "mapping values are not allowed" in problem:
        return line, column, "found a second ':'; the indentation is wrong, or a value with ': ' needs quotes"
    if opened is not None and "could not find expected ':'" in problem:
        return (
            opened.line + 1,
            opened.column + 1,
            "found a line without a key; a line is a key, a colon and a blank, then the value",
        )
    if opened is not None and "end of stream" in problem and "quoted scalar" in context:
        return opened.line + 1, opened.column + 1, "found a quote that is not closed"
    if "cannot start any token" in problem or "alphabetic or numeric character" in problem:
        return line, column, _start(lines, error)
    if "unknown escape character" in problem:
        return line, column, "found a backslash in double quotes; use single quotes, or write two of them"
    if "expected ',' or" in problem:
        return line, column, _in_brackets(problem, opened)
    if "expected <block end>" in problem:
        return line, column, _at_wrong_place(problem, lines[:line], column, opened)
    if "expected the node content" in problem:
        found = here[column - 1 : column]
        if not found:
            return line, column, "found the end where a value is expected; a bracket is not closed"
        return line, column, f"found {found!r} where a value is expected; {_QUOTE}"
    return line, column, f"not valid YAML: {context + ': ' if context else ''}{problem}"


def _blanks(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _start(lines: list[str], error: yaml.MarkedYAMLError) -> str:
    """Explain a value that begins with a character with a special meaning (``*``, ``&``, ``@``, ``%``, `````)."""
    mark = error.problem_mark
    assert mark is not None
    at = mark.column - (1 if "alphabetic" in str(error.problem) else 0)
    found = lines[mark.line][at : at + 1] if mark.line < len(lines) else ""
    return f"found {found!r} at the start of a value; {_QUOTE}"


def _in_brackets(problem: str, opened: yaml.Mark | None) -> str:
    close = "}" if "'}'" in problem else "]"
    found = problem.rpartition("but got ")[2].strip("'")
    since = f"the {'{' if close == '}' else '['} of line {opened.line + 1}" if opened is not None else "an open bracket"
    if found in ("<stream end>", "<document end>"):
        return f"found the end of the file; {since} is not closed"
    if found == "{":
        return f"found '{{' after {since}; close that first, or put a value with {{name}} in quotes"
    what = "another value" if found == "<scalar>" else repr(found)
    return f"found {what} after {since}; allowed is ',' or '{close}'"


def _at_wrong_place(problem: str, lines: list[str], column: int, opened: yaml.Mark | None) -> str:
    """Explain a wrong indentation, or text in the wrong place, in the last of ``lines``."""
    found = problem.rpartition("but found ")[2].strip("'")
    here, own = lines[-1], column - 1
    if found in ("}", "]", ","):
        return f"found {found!r} without an opening one; remove it, or put the value in quotes"
    if len(_blanks(here)) != own:
        return "found text after the end of a value; put the whole value in quotes"
    if opened is not None and own == opened.column:
        if here.lstrip().startswith("-"):
            keys = f"the keys of line {opened.line + 1}"
            return f"found '-' at the indentation of {keys}; align it with the other '-' of its list"
        item = f"the '-' of line {opened.line + 1}"
        return f"found a key at the indentation of {item}; a new item of the list begins with '- '"
    fitting = " or ".join(str(width) for width in _widths(lines[:-1]) if width != own)
    return f"found {own} blanks of indentation; allowed here: {fitting}"


def _widths(lines: list[str]) -> list[int]:
    """Return the indentations of the collections that are open after ``lines``, the innermost last."""
    widths: list[int] = []
    for line in reversed(lines):
        bare, width = line.lstrip(), len(_blanks(line))
        if bare and not bare.startswith("#") and (not widths or width < widths[0]):
            widths.insert(0, width)
    return widths
