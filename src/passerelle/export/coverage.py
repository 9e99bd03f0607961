"""What a target does with each key: it exports the key, loses it, or the key does not concern it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from passerelle.config.models.base import Model, given
from passerelle.config.models.config import Config
from passerelle.config.problems import Finding, Loc


@dataclass(frozen=True, slots=True)
class Exported:
    """The target has the key. ``condition`` names values that are losses, for readers; the export reports them."""

    condition: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """The target cannot express the key. ``why`` ends the sentence "this is lost: …"."""

    why: str


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """The key has no effect in the place of the target, or keeps its effect elsewhere."""

    why: str


Support = Exported | Lost | NotApplicable


@dataclass(frozen=True, slots=True)
class Coverage:
    """The support of a target for each ``Model.key``. ``default`` is for keys that are not listed."""

    keys: Mapping[str, Support]
    default: Support | None = None

    def of(self, model: type[Model], key: str) -> Support:
        """Return the support for a key. Raises ``KeyError`` for one that is not covered."""
        support = self.keys.get(f"{model.__name__}.{key}", self.default)
        if support is None:
            raise KeyError(f"{model.__name__}.{key}")
        return support

    def losses(self, config: Config) -> Iterator[Finding]:
        """Yield a finding for each key of the file that is lost."""
        yield from self._losses(config, ())

    def _losses(self, model: Model, loc: Loc) -> Iterator[Finding]:
        for key in type(model).model_fields:
            if key not in given(model):
                continue
            support = self.of(type(model), key)
            if isinstance(support, Lost):
                yield Finding((*loc, key), support.why, at_key=True)
            elif isinstance(support, Exported):
                yield from self._inside(getattr(model, key), (*loc, key))

    def _inside(self, value: object, loc: Loc) -> Iterator[Finding]:
        if isinstance(value, Model):
            yield from self._losses(value, loc)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                yield from self._inside(item, (*loc, index))
        elif isinstance(value, dict):
            for name, item in value.items():
                yield from self._inside(item, (*loc, name))
