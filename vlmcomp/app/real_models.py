"""Real models beside the embedded one: what this machine is offered, and getting it. No Gradio here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from vlmcomp.app import handlers
from vlmcomp.models import registry
from vlmcomp.serving.local import import_libraries
from vlmcomp.serving.model_offer import ModelOffer, OfferProbe
from vlmcomp.serving.waiting import call_in_background


@cache
def _probe() -> OfferProbe | None:
    """The search for a real model that can be offered; None where models do not come on demand."""
    return OfferProbe() if handlers.backend().name == "local" else None


def warm_up() -> None:
    """Imports what the first live answer needs, so that no visitor waits for it, and looks for a model to offer."""
    if handlers.backend().name == "local":
        import_libraries()
        _probe()


def model_offer() -> tuple[bool, ModelOffer | None]:
    """Whether the search for a real model has ended, and what it found."""
    probe = _probe()
    return (True, None) if probe is None else (probe.wait(0), probe.offer)


def download(model: str) -> Iterator[str]:
    """Download the weights of a model, and yield twice a second what is being done.

    Raises:
        ValueError: one sentence on why the weights are not available.
    """
    stage = ["starting"]

    def report(text: str, fraction: float) -> None:
        stage[0] = f"{text}, {fraction:.0%}" if fraction else text

    def fetch() -> None:
        import_libraries()
        from vlmcomp.models.download import download_weights  # imports torch: the page is served without

        download_weights(registry.get_model_spec(model), None, report)

    for _ in call_in_background(fetch, ""):
        yield stage[0]
