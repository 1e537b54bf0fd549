"""Where answers come from: models kept in memory, a fixed set on ZeroGPU, or recordings alone."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from vlmcomp import hardware
from vlmcomp.feedback import Progress
from vlmcomp.recipe import Recipe
from vlmcomp.results import answer
from vlmcomp.serving import variant_cache
from vlmcomp.serving.local import Resident
from vlmcomp.serving.manager import Held, ManagerError
from vlmcomp.serving.zerogpu import Fixed

if TYPE_CHECKING:
    from vlmcomp.runtime.vision_cache import SharedVision

ASKED = "VLMCOMP_POLICY"  # environment: one of NAMES, instead of what would be chosen
NAMES = ("resident", "fixed", "replay")
LEAST_BYTES = 1_500_000_000  # of RAM: torch itself takes half of that
_NEEDED = ("torch", "transformers", "bitsandbytes")


class Policy(Protocol):
    """Answers questions, and says what it holds to do so."""

    name: str

    def answers(
        self,
        recipe: Recipe,
        image: Image.Image,
        question: str,
        progress: Progress | None = None,
        vision: SharedVision | None = None,
    ) -> Iterator[answer.Answer]:
        """The answer of ``recipe`` as it grows. Closing the iterator frees the model within a token. ``vision`` is what
        other variants made of the image, where they can share that.

        Raises:
            ManagerError: it cannot be run here now; a recorded answer may stand in.
            ValueError: its weights cannot be had.
        """
        ...

    def weight_bytes(self, recipe: Recipe) -> int:
        """Bytes of its weights as stored; 0 if it was never here."""
        ...

    def held(self) -> list[Held]: ...

    @property
    def budget_bytes(self) -> int | None: ...


@dataclass(frozen=True)
class Device:
    """What this process may compute with: whether the libraries are there, and bytes of RAM."""

    computes: bool
    memory_bytes: int


def device() -> Device:
    """This machine, without importing torch."""
    return Device(all(map(importlib.util.find_spec, _NEEDED)), hardware.memory_limit())


def choose(environ: Mapping[str, str], device: Device) -> str:
    """The policy (of ``NAMES``) for an environment and a device; looks at nothing else.

    Raises:
        ValueError: the environment asks for an unknown policy, or one that cannot work there.
    """
    on_zero_gpu = hardware.on_zero_gpu(environ)
    asked = environ.get(ASKED)
    if asked and asked not in NAMES:
        raise ValueError(f"{ASKED} is '{asked}': use one of {', '.join(NAMES)}")
    if asked == "resident" and on_zero_gpu:
        raise ValueError(f"{ASKED} is 'resident': ZeroGPU keeps nothing between questions, use fixed or replay")
    if asked:
        return asked
    if not device.computes or device.memory_bytes < LEAST_BYTES:
        return "replay"
    return "fixed" if on_zero_gpu else "resident"


def here(recipes: Sequence[Recipe]) -> Policy:
    """The policy of this process; ``recipes`` are what a fixed set is made of. On ZeroGPU it must be called by the
    main thread before the app is launched."""
    chosen = choose(os.environ, device())
    if chosen == "fixed":
        return Fixed(recipes)
    return Resident(variant_cache.usual()) if chosen == "resident" else Replay()


class Replay:
    """Runs nothing: what was recorded is all there is."""

    name = "replay"
    budget_bytes = None

    def answers(
        self,
        recipe: Recipe,
        image: Image.Image,
        question: str,
        progress: Progress | None = None,
        vision: SharedVision | None = None,
    ) -> Iterator[answer.Answer]:
        raise ManagerError("no model runs on this machine: choose one of the examples, whose answers are recorded")

    def weight_bytes(self, recipe: Recipe) -> int:
        return 0

    def held(self) -> list[Held]:
        return []
