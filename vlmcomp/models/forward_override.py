"""Temporary replacement of a module's forward, on the instance alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def override_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace ``module.forward`` by ``forward`` inside the context; hooks still run around it.

    Overrides of one module nest. On exit, after an exception too, the module is as it was: a forward that was set on
    the instance before (as accelerate does) comes back, otherwise that of the class applies again.
    """
    previous = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if previous is None:
            del module.forward
        else:
            module.forward = previous
