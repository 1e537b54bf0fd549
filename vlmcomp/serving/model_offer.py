"""The real model that this machine is offered: the best one that fits, if its weights are here or can be had."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from vlmcomp import hardware
from vlmcomp.feedback import format_bytes
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.serving.local import import_libraries

# By type of device, the best first. None of them is gated: an offer must work with one click.
CANDIDATES = {
    "cpu": ("smolvlm-500m", "smolvlm-256m"),
    "cuda": ("llava-1.5-7b", "qwen2-vl-2b", "smolvlm-500m", "smolvlm-256m"),
}
_RESERVE = 0.75  # of the memory for models, so that a compressed variant fits beside the original
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelOffer:
    """A model from the Hub that can run here.

    Attributes:
        model: name in the registry.
        download_bytes: still to be downloaded; 0 if the weights are here.
    """

    model: str
    download_bytes: int

    def __str__(self) -> str:
        title = registry.get_model_spec(self.model).title
        download = f"{format_bytes(self.download_bytes)} to download" if self.download_bytes else "downloaded already"
        return f"{title} can answer about your photos here: {download}"


def find_offer(device: str, memory_bytes: int) -> ModelOffer | None:
    """The best model that fits and whose weights can be had; None if there is none. Asks the Hub, which takes seconds.

    Args:
        device: "cpu" or "cuda".
        memory_bytes: for models.
    """
    from vlmcomp.compression.size_estimate import estimate_memory  # imports torch: the page is served without
    from vlmcomp.models.download import bytes_to_download  # as do the weights' checks

    for name in CANDIDATES[device.partition(":")[0]]:
        if sum(estimate_memory(Recipe(name))) > _RESERVE * memory_bytes:
            continue
        try:
            return ModelOffer(name, bytes_to_download(registry.get_model_spec(name)))
        except ValueError as error:
            _log.info("%s is not offered: %s", name, error)
    return None


class OfferProbe:
    """Looks for an offer in a thread of its own.

    Args:
        find: looks for it; by default what fits this machine.
    """

    def __init__(self, find: Callable[[], ModelOffer | None] | None = None) -> None:
        self._find = find or _find_offer_here
        self._done = threading.Event()
        self._offer: ModelOffer | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._offer = self._find()
        except Exception as error:  # without an offer the page is as useful as before
            _log.warning("no model is offered: %s", error)
        finally:
            self._done.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the search has ended, after at most ``timeout`` seconds."""
        return self._done.wait(timeout)

    @property
    def offer(self) -> ModelOffer | None:
        """What was found so far."""
        return self._offer


def _find_offer_here() -> ModelOffer | None:
    import_libraries()  # in one thread at a time
    return find_offer(hardware.default_device(), hardware.memory_budget())
