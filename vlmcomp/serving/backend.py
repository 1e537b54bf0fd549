"""Where answers come from: models loaded on demand, a fixed set on ZeroGPU, or recordings alone."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from vlmcomp import hardware
from vlmcomp.recipe import Recipe
from vlmcomp.results.answer import Answer
from vlmcomp.runtime.vision_cache import VisionCache
from vlmcomp.serving import variant_cache
from vlmcomp.serving.local import LocalBackend
from vlmcomp.serving.manager import READY, LoadedModelInfo, ModelUnavailable
from vlmcomp.serving.waiting import Waiting

ENV_BACKEND = "VLMCOMP_BACKEND"  # one of BACKEND_NAMES, overrides the automatic choice
BACKEND_NAMES = ("local", "zerogpu", "recorded")
MIN_MEMORY_BYTES = 1_500_000_000  # of RAM; torch alone needs half of it
_REQUIRED_LIBRARIES = ("torch", "transformers", "bitsandbytes")


class AnswerBackend(Protocol):
    """Answers questions with the models of recipes, and lists the models it has loaded."""

    name: str

    def readiness(self, recipe: Recipe) -> int:
        """``READY``, ``LOADABLE`` or ``NOT_BUILT``. Needs no torch."""
        ...

    def stream(
        self, recipe: Recipe, image: Image.Image, question: str, vision_cache: VisionCache | None = None
    ) -> Iterator[Answer | Waiting]:
        """The answer of ``recipe``, token by token, and what it waits for before. Closing the iterator frees the model
        within a token, and ends a build that nobody else wants.

        Args:
            recipe: what answers.
            image: the image.
            question: the question about it.
            vision_cache: image features of other variants of the model, for backends that share them.

        Raises:
            ModelUnavailable: it cannot be run here now; a recorded answer may be shown instead.
            ValueError: its weights cannot be loaded.
        """
        ...

    def weight_bytes(self, recipe: Recipe) -> int:
        """Bytes of its weights as stored; 0 if it was never loaded."""
        ...

    def loaded_models(self) -> list[LoadedModelInfo]:
        """The models in memory, the most recently used first."""
        ...

    @property
    def budget_bytes(self) -> int | None:
        """Bytes that all models may occupy together; None if that is not known or nothing runs."""
        ...


@dataclass(frozen=True)
class HostResources:
    """What this process can run models with: whether the libraries are installed, and bytes of RAM."""

    has_libraries: bool
    memory_bytes: int


def host_resources() -> HostResources:
    """Resources of this machine, found without importing torch."""
    return HostResources(all(map(importlib.util.find_spec, _REQUIRED_LIBRARIES)), hardware.ram_limit())


def select_backend(environ: Mapping[str, str], host: HostResources) -> str:
    """Name of the backend (one of ``BACKEND_NAMES``) for an environment and a machine; depends on nothing else.

    Raises:
        ValueError: the environment names an unknown backend, or one that cannot work there.
    """
    on_zero_gpu = hardware.is_zero_gpu(environ)
    requested = environ.get(ENV_BACKEND)
    if requested and requested not in BACKEND_NAMES:
        raise ValueError(f"{ENV_BACKEND} is '{requested}': use one of {', '.join(BACKEND_NAMES)}")
    if requested == "local" and on_zero_gpu:
        raise ValueError(f"{ENV_BACKEND} is 'local': ZeroGPU keeps nothing between questions, use zerogpu or recorded")
    if requested:
        return requested
    if not host.has_libraries or host.memory_bytes < MIN_MEMORY_BYTES:
        return "recorded"
    return "zerogpu" if on_zero_gpu else "local"


def create_backend(recipes: Sequence[Recipe]) -> AnswerBackend:
    """The backend of this process; ``recipes`` are the fixed set of ZeroGPU. On ZeroGPU it must be called by the main
    thread before the app is launched."""
    name = select_backend(os.environ, host_resources())
    if name == "zerogpu":
        from vlmcomp.serving.zerogpu import ZeroGpuBackend  # imports torch, which it needs at once and others later

        return ZeroGpuBackend(recipes, variant_cache.default_cache())
    if name == "local":
        return LocalBackend(variant_cache.default_cache())
    return RecordedBackend()


class RecordedBackend:
    """Runs no model: the recorded answers are all there is."""

    name = "recorded"
    budget_bytes = None

    def readiness(self, recipe: Recipe) -> int:
        return READY

    def stream(
        self, recipe: Recipe, image: Image.Image, question: str, vision_cache: VisionCache | None = None
    ) -> Iterator[Answer | Waiting]:
        raise ModelUnavailable("no model runs on this machine: choose one of the examples, whose answers are recorded")

    def weight_bytes(self, recipe: Recipe) -> int:
        return 0

    def loaded_models(self) -> list[LoadedModelInfo]:
        return []
