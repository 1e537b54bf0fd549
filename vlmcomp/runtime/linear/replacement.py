"""Replacement of a model's Linears by others that save the same weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import nn

LinearT = TypeVar("LinearT", bound="ReplacementLinear")


class ReplacementLinear(nn.Linear):
    """A Linear made from another one, whose place in a model it takes."""

    @classmethod
    def from_linear(cls: type[LinearT], linear: nn.Linear) -> LinearT:
        """A Linear of this class that takes over parameters, hooks and training mode of ``linear``.

        Both share these tables: handles of hooks registered on ``linear`` still remove them, and no weight is in memory
        twice. ``linear`` must not be used afterwards.
        """
        new = cls.__new__(cls)
        vars(new).update(vars(linear))
        return new


def replace_modules_(model: nn.Module, replacements: Iterable[tuple[nn.Module, nn.Module]]) -> None:
    """Put modules in the place of others, wherever ``model`` contains them.

    Args:
        model: contains the modules to replace; not one of them itself.
        replacements: (old, new) pairs; each is applied before the next one is taken.
    """
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    for old, new in replacements:
        for path in paths[id(old)]:
            model.set_submodule(path, new)
