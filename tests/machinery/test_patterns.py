"""No regular expression of the package needs more than linear time, whatever a client or a service sends."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import passerelle
from passerelle.http1.field_lines import REQUEST_LAYOUTS
from passerelle.security import header_rules
from tests.support.cpu import cpu_timer

# The parser of `re` is private, but nothing else gives the structure of a pattern.
PARSER: Any = importlib.import_module("re._parser")
METHODS = ("match", "fullmatch", "search", "split", "sub", "subn", "findall", "finditer")
MANY = 1000  # a repetition up to fewer times than this is bounded
SMALL = (12, 18, 24, 28)  # where exponential growth shows
LARGE = 16_000
FLOOR = 0.02  # seconds; a quadratic pattern needs more than 0.1 at the largest size
LONG = 10 * FLOOR  # seconds of CPU that no disturbance explains: measured once
GROWTH = 9  # linear growth is 4 from a quarter of the size, quadratic growth is 16


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(passerelle.__path__, "passerelle.")
    return [importlib.import_module(one.name) for one in found if not one.name.endswith("__main__")]


def uses(sources: list[str]) -> dict[str, set[str]]:
    """Return for each name the methods of patterns that the package calls or takes on it."""
    found: dict[str, set[str]] = {}
    for source in sources:
        for name, method in re.findall(rf"(\w+)\.({'|'.join(METHODS)})\b", source):
            found.setdefault(name, set()).add(method)
    return found


def patterns() -> Iterator[tuple[str, "re.Pattern[Any]", str]]:
    """Yield the name, the pattern and the method of each use of a pattern in the package."""
    loaded = modules()
    sources = [Path(inspect.getfile(module)).read_text() for module in loaded]
    methods = uses(sources)
    for module, source in zip(loaded, sources, strict=True):
        spaces = [vars(module), *(vars(one) for one in vars(module).values() if isinstance(one, type))]
        for space in spaces:
            for name, value in list(space.items()):
                at = f"{module.__name__}.{name}"
                for one in value if isinstance(value, tuple | list) else (value,):
                    if isinstance(one, re.Pattern):
                        for method in methods.get(name, {"search"}):
                            yield at, one, method
                    elif isinstance(getattr(one, "__self__", None), re.Pattern):
                        yield at, one.__self__, one.__name__
        # re.sub(r"...", ...) in a function; to parse all modules would take most of the time of the test.
        for node in ast.walk(ast.parse(source)) if re.search(rf"\bre\.({'|'.join(METHODS)})\(", source) else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr in METHODS
                and isinstance(node.args[0], ast.Constant)
            ):
                given = node.args[0].value
                flags = re.DOTALL if any("DOTALL" in ast.unparse(one) for one in node.args[1:]) else 0
                yield f"{module.__name__}:{node.lineno}", re.compile(given, flags), node.func.attr
    yield "header_rules.lines_of", header_rules.lines_of([b"X-One", b"X-One-Two"], aliases=True), "sub"
    layout = REQUEST_LAYOUTS.split(b"Host: a\r\nX-A: b\r\nConnection: close\r\nX-B: c\r\nX-B: d\r\n")[1]
    layout.compile()
    matching: Any = layout.fullmatch
    yield "field_lines.Layout", matching.__self__, "fullmatch"


def characters(items: Any) -> set[int]:
    """Return some of the characters that one place of a pattern takes."""
    text = "".join(map(chr, range(256)))
    tried = [ord(" "), ord("\t"), ord(","), ord(";"), ord('"'), ord("\\"), ord("a"), ord("0"), ord("."), ord("/")]
    taken: set[int] = set()
    for op, value in items:
        name = str(op)
        if name == "LITERAL":
            taken.add(value)
        elif name == "IN":
            negated = str(value[0][0]) == "NEGATE"
            inside: set[int] = set()
            for kind, which in value:
                if str(kind) == "LITERAL":
                    inside.add(which)
                elif str(kind) == "RANGE":
                    inside.update(range(which[0], min(which[1], 255) + 1))
                elif str(kind) == "CATEGORY":
                    category = str(which).removeprefix("CATEGORY_")
                    form = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}.get(category.removeprefix("NOT_"), r".")
                    inside.update(ord(one) for one in text if bool(re.match(form, one)) != category.startswith("NOT_"))
            chosen = [one for one in tried if (one in inside) != negated]
            taken.update(chosen[:4] or ([] if negated else sorted(inside)[:2]))
        elif name in ("NOT_LITERAL", "ANY"):
            taken.update(one for one in tried[:4] if name == "ANY" or one != value)
        elif name == "SUBPATTERN":
            taken |= characters(value[3])
        elif name == "BRANCH":
            taken.update(*(characters(branch) for branch in value[1]))
    return taken


def example(tree: Any) -> list[int]:
    """Return the characters of one short text that the tree takes, roughly: assertions are passed over."""
    out: list[int] = []
    for op, value in tree:
        name = str(op)
        if name in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
            out += sorted(characters([(op, value)]))[:1]
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            out += example(value[2]) * value[0]
        elif name == "SUBPATTERN":
            out += example(value[3])
        elif name == "ATOMIC_GROUP":
            out += example(value)
        elif name == "BRANCH":
            out += example(value[1][0])
    return out


def pumped(tree: Any, before: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield what precedes an unbounded repetition, with the characters to repeat."""
    sofar = list(before)
    for op, value in tree:
        name = str(op)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            if value[1] == PARSER.MAXREPEAT or value[1] >= MANY:
                yield sofar, example(value[2])
                for one in sorted(characters(value[2])):
                    yield sofar, [one]
            yield from pumped(value[2], sofar)
        elif name == "SUBPATTERN":
            yield from pumped(value[3], sofar)
        elif name == "ATOMIC_GROUP":
            yield from pumped(value, sofar)
        elif name in ("ASSERT", "ASSERT_NOT"):
            yield from pumped(value[1], sofar)
        elif name == "BRANCH":
            for branch in value[1]:
                yield from pumped(branch, sofar)
        sofar += example([(op, value)])


def hostile(pattern: "re.Pattern[Any]") -> Iterator[Callable[[int], Any]]:
    """Yield functions from a size to an input that a pattern with overlapping repetitions is slow for."""
    tree = PARSER.parse(pattern.pattern, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else 0)
    shapes = {(bytes(before), bytes(pump)) for before, pump in pumped(tree, []) if pump}
    shapes |= {(b"", pump) for _, pump in shapes} | {(b"a", pump) for _, pump in shapes}
    shapes |= {(b"", example_of) for example_of in [bytes(example(tree))] if example_of}
    for before, pump in sorted(shapes):
        for after in (b"", b"b", b"\0"):

            def made(size: int, before: bytes = before, pump: bytes = pump, after: bytes = after) -> Any:
                text = before + pump * (size // len(pump)) + after
                return text if isinstance(pattern.pattern, bytes) else text.decode("latin-1")

            yield made


def seconds(pattern: "re.Pattern[Any]", method: str, given: Any) -> float:
    """Return the shortest of a few times that one call takes."""
    call = getattr(pattern, method)
    best = float("inf")
    for _ in range(3):
        with cpu_timer() as spent:
            if method in ("sub", "subn"):
                call(given[:0], given)
            else:
                result = call(given)
                if method == "finditer":
                    list(result)
            best = min(best, spent())
        if best < FLOOR or best > LONG:
            break
    return best


@functools.cache  # several modules import the same pattern
def is_linear(pattern: "re.Pattern[Any]", method: str) -> bool:
    for made in hostile(pattern):
        if any(seconds(pattern, method, made(size)) > FLOOR for size in SMALL):
            return False
        needed = seconds(pattern, method, made(LARGE))
        if needed > FLOOR and needed > GROWTH * seconds(pattern, method, made(LARGE // 4)):
            return False
    return True


def test_each_pattern_needs_linear_time() -> None:
    found = sorted(set(patterns()), key=lambda one: (one[0], one[2]))
    assert {"passerelle.http1.field_lines._NAME", "passerelle.caching.directives._MEMBER"} <= {one[0] for one in found}
    assert [(name, method) for name, pattern, method in found if not is_linear(pattern, method)] == []


@pytest.mark.parametrize(
    ("slow", "method"),
    [
        (rb"[ \t]*,[ \t]*", "split"),
        (rb"(?:a+)+b", "match"),
        (rb"[^,]*[ ]*;", "match"),
        (rb"x[0-9]*(?:[0-9a]*)q", "fullmatch"),
        (rb"[A-Za-z-]+:", "search"),
        (rb"(?:a|ab?)*,", "match"),
    ],
)
def test_the_check_finds_a_pattern_that_backs_up(slow: bytes, method: str) -> None:
    assert not is_linear(re.compile(slow), method)
