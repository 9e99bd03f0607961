"""Finds the application that an instance serves, and the interface that it has."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
from typing import Any

from passerelle.system.importing import hidden_file


class AppLoadError(Exception):
    """The application does not exist. The text names what is missing."""


def load(app: str) -> Any:
    """Return the application ``app``: ``module:attribute`` or ``module:factory()``.

    The attribute may have dots. A factory is called, with the literals in parentheses as arguments.

    Raises:
        AppLoadError: ``app`` has another form, does not exist, or is not callable.
        Exception: what the module raises when it is imported.
    """
    module, _, attribute = app.partition(":")
    attribute, called, arguments = attribute.partition("(")
    if not module or not attribute:
        raise AppLoadError(f"{app!r} is not of the form module:attribute")
    given, named = _arguments(app, arguments) if called else ((), {})
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A failed import inside the module is reported with its traceback.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        missing = f"there is no module {error.name!r} in {os.getcwd()} or on the Python path"
        raise AppLoadError(missing + hidden_file(module)) from None
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise AppLoadError(f"module {module!r} has no attribute {attribute!r}{hidden_file(module)}") from None
    if called and callable(found):
        found = found(*given, **named)
    if not callable(found):
        raise AppLoadError(f"{app!r} is not an application: a {type(found).__name__} cannot be called")
    if _takes_nothing(found):
        if inspect.isroutine(found) or inspect.isclass(found) or isinstance(found, functools.partial):
            raise AppLoadError(f"{app!r} is not an application but makes one: write {app.partition('(')[0]}()")
        raise AppLoadError(f"{app!r} is not a WSGI or ASGI application: a {type(found).__name__} takes no request")
    return found


def call_at_start(function: str) -> None:
    """Call ``module:function``, which sets something up in each instance.

    Raises:
        AppLoadError: it does not exist, or it is a coroutine function, which would need an event loop.
        Exception: what it raises.
    """
    module, _, name = function.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise AppLoadError(f"on_start: there is no module {error.name!r}") from None
    for each in name.split("."):
        found = getattr(found, each, None)
    if not callable(found):
        raise AppLoadError(f"on_start: module {module!r} has no function {name!r}")
    if inspect.iscoroutinefunction(found):
        raise AppLoadError(f"on_start: {function!r} is a coroutine function; use the lifespan of the application")
    found()


def _arguments(app: str, text: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments in ``text``, which ends with the closing parenthesis of the call in ``app``."""
    try:
        call = ast.parse(f"f({text}", mode="eval").body
        if isinstance(call, ast.Call):
            named = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg is not None}
            if len(named) == len(call.keywords):
                return [ast.literal_eval(each) for each in call.args], named
    except (SyntaxError, ValueError):
        pass
    raise AppLoadError(f"{app!r} is not of the form module:factory(), with literals as arguments if any")


def accepts(application: Any, number: int) -> bool | None:
    """Whether ``application`` can be called with ``number`` arguments; None if it has no signature (written in C)."""
    try:
        inspect.signature(application).bind(*[None] * number)
    except TypeError:
        return False
    except ValueError:
        return None
    return True


def _takes_nothing(application: Any) -> bool:
    """Return whether ``application`` can be called without arguments, as factories can.

    An application with an open signature (``*arguments``) is no factory.
    """
    if not accepts(application, 0):
        return False
    return all(each.kind is not each.VAR_POSITIONAL for each in inspect.signature(application).parameters.values())


def detect(application: Any) -> str:
    """Return ``asgi`` or ``wsgi``, the interface of ``application``.

    An ASGI application is a coroutine function, an object whose ``__call__`` is one (Starlette, FastAPI, Quart,
    Django), a callable with three positional arguments, or a class with one (ASGI 2). A WSGI application has two.
    """
    call = application
    while isinstance(call, functools.partial):
        call = call.func
    if not inspect.isroutine(call) and not inspect.isclass(call):
        call = call.__call__
    if inspect.iscoroutinefunction(inspect.unwrap(call)):
        return "asgi"
    return "asgi" if accepts(application, 2) is False else "wsgi"
