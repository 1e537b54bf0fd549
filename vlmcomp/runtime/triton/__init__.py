"""Triton kernels. A module is imported when it is first used: systems without a GPU may lack Triton."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmcomp.runtime.triton import attention, gemv, gemv_int4

__all__ = ["attention", "gemv", "gemv_int4"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
