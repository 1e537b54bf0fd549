"""vlmcomp: compress vision-language models and measure what it costs.

The names below are imported on first use, so that ``import vlmcomp`` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmcomp.api.benchmark import benchmark
    from vlmcomp.api.model import Model, compress, load
    from vlmcomp.api.results import BenchmarkResult, Comparison, compare, list_models, recommend
    from vlmcomp.compression.in_place import prune_, quantize_
    from vlmcomp.recipe import Recipe
    from vlmcomp.results.provenance import __version__

_MODULE_OF = {
    "BenchmarkResult": "vlmcomp.api.results",
    "Comparison": "vlmcomp.api.results",
    "Model": "vlmcomp.api.model",
    "Recipe": "vlmcomp.recipe",
    "__version__": "vlmcomp.results.provenance",
    "benchmark": "vlmcomp.api.benchmark",
    "compare": "vlmcomp.api.results",
    "compress": "vlmcomp.api.model",
    "list_models": "vlmcomp.api.results",
    "load": "vlmcomp.api.model",
    "prune_": "vlmcomp.compression.in_place",
    "quantize_": "vlmcomp.compression.in_place",
    "recommend": "vlmcomp.api.results",
}

__all__ = [
    "BenchmarkResult",
    "Comparison",
    "Model",
    "Recipe",
    "__version__",
    "benchmark",
    "compare",
    "compress",
    "list_models",
    "load",
    "prune_",
    "quantize_",
    "recommend",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
