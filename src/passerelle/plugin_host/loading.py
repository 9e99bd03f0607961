"""Loading plugins: ``module:attribute`` becomes a function that a runner calls.

The folder of the configuration file is last on the path, so that no file in it takes the place of an installed module.
A module is imported once in a process: a reload of the configuration makes new instances, and does not read code again.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from pydantic import BaseModel, ValidationError

from passerelle.system.importing import hidden_file

# The number of positional arguments by the kind of a plugin.
ARGUMENTS: Mapping[str, int] = {"guard": 1, "request": 1, "response": 2}
# Instructions of a coroutine that may suspend it.
_SUSPENDING = frozenset({"SEND", "YIELD_FROM", "YIELD_VALUE", "GET_AWAITABLE", "GET_AITER", "BEFORE_ASYNC_WITH"})


class PluginLoadError(Exception):
    """A plugin cannot be loaded. The text is one line; ``key`` is the key of the configuration that is wrong.

    ``loc`` is the place within ``settings``.
    """

    def __init__(self, key: str, text: str, loc: tuple[str | int, ...] = ()) -> None:
        super().__init__(text)
        self.key = key
        self.loc = loc


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A plugin that was loaded: what is called for each request, and its hooks.

    ``mode`` is ``thread`` for a plain function, ``task`` for a coroutine function, and ``inline`` for one that awaits
    nothing and so can run at once.
    """

    function: Callable[..., Any]
    mode: str
    start: Callable[[], Any] | None = None
    stop: Callable[[], Any] | None = None


def load(kind: str, reference: str, settings: Mapping[str, Any], folder: str) -> LoadedPlugin:
    """Load the plugin ``reference`` (``module:attribute``), and make its instance if it is a class.

    :raises PluginLoadError: if there is no such plugin, or it cannot be a plugin of this ``kind``.
    """
    found = _find(kind, reference, folder)
    if inspect.isclass(found):
        instance = _instance(found, settings)
        if not callable(instance):
            raise PluginLoadError(kind, f"{reference!r} has no method __call__")
        function: Any = instance
        hooks = [getattr(instance, name, None) for name in ("start", "stop")]
    else:
        if settings:
            raise PluginLoadError("settings", f"{reference!r} takes no settings: a class does, a function does not")
        function, hooks = found, [None, None]
    if not callable(function):
        raise PluginLoadError(kind, f"{reference!r} is not a plugin: a {type(found).__name__} cannot be called")
    number = ARGUMENTS[kind]
    try:
        inspect.signature(function).bind(*[None] * number)
    except TypeError:
        wanted = "(request)" if number == 1 else "(request, response)"
        raise PluginLoadError(kind, f"{reference!r} cannot be called with {wanted}") from None
    except ValueError:
        pass  # written in C, without a signature
    start, stop = (hook if callable(hook) else None for hook in hooks)
    return LoadedPlugin(function, _mode(function), start, stop)


def add_folder(folder: str) -> None:
    """Add ``folder`` to the end of the path of imports."""
    path = os.path.abspath(folder)
    if path not in sys.path:
        sys.path.append(path)


def _find(kind: str, reference: str, folder: str) -> Any:
    module, _, attribute = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            text = f"there is no module {error.name!r} in {os.path.abspath(folder)} or on the Python path"
            raise PluginLoadError(kind, text + hidden_file(module, folder)) from None
        raise _import_error(kind, module, error) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_error(kind, module, error) from error
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            text = f"module {module!r} has no attribute {attribute!r}{hidden_file(module, folder)}"
            raise PluginLoadError(kind, text) from None
    return found


def _import_error(kind: str, module: str, error: BaseException) -> PluginLoadError:
    """State what the import of ``module`` raised, and the last line of code outside of the import system."""
    if isinstance(error, SyntaxError):
        return PluginLoadError(kind, f"{error.filename}:{error.lineno}: {error.msg}")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames[1:] else ""
    return PluginLoadError(kind, f"cannot import {module}: {_one_line(error)}{place}")


def _instance(found: type, settings: Mapping[str, Any]) -> Any:
    model = getattr(found, "Settings", None)
    argument: Any = settings
    if inspect.isclass(model) and issubclass(model, BaseModel):
        try:
            argument = model.model_validate(dict(settings))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise PluginLoadError("settings", first["msg"].lower(), first["loc"]) from None
        except Exception as error:
            raise PluginLoadError("settings", _one_line(error)) from error
    try:
        takes = _takes_settings(found)
        if not takes and settings:
            raise PluginLoadError("settings", f"{found.__qualname__} takes no settings")
        return found(argument) if takes else found()
    except PluginLoadError:
        raise
    except Exception as error:
        raise PluginLoadError("settings", f"{found.__qualname__} cannot be made: {_one_line(error)}") from error


def _takes_settings(found: type) -> bool:
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _mode(function: Any) -> str:
    """Return how ``function`` is to be called (see :class:`LoadedPlugin`)."""
    call = function if inspect.isroutine(function) else type(function).__call__
    if not inspect.iscoroutinefunction(call):
        return "thread"
    code = getattr(call, "__code__", None)
    return "inline" if isinstance(code, CodeType) and not _may_suspend(code) else "task"


def _may_suspend(code: CodeType) -> bool:
    return any(instruction.opname in _SUSPENDING for instruction in dis.get_instructions(code))
