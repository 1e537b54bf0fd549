"""easy-VQA (Victor Zhou, MIT): shapes that others drew, read from its package."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache, partial
from pathlib import Path

from PIL import Image

from vlmcomp.data.tasks import Sample


class EasyVQA:
    """One split of easy-VQA (Victor Zhou, MIT), read from the installed ``easy-vqa`` package."""

    def __init__(self, split: str) -> None:
        import easy_vqa

        self.folder = Path(easy_vqa.__file__).parent / "data" / split
        self.questions: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for text, answer, image_id in json.loads((self.folder / "questions.json").read_text()):
            self.questions[image_id].append((text, answer))

    def image(self, image_id: int) -> Image.Image:
        return Image.open(self.folder / "images" / f"{image_id}.png").convert("RGB")


@cache
def samples() -> tuple[Sample, ...]:
    """The test split.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        import easy_vqa  # noqa: F401 - says early and clearly that it is missing
    except ImportError:
        raise ValueError("the task easy-vqa needs its data: pip install easy-vqa") from None
    split = EasyVQA("test")
    found = []
    for image_id, pairs in split.questions.items():
        for number, (text, answer) in enumerate(pairs):
            draw = partial(split.image, image_id)
            found.append(Sample(f"{image_id:04d}-{number:02d}", _easy_type(answer), text, answer, draw))
    return tuple(found)


def _easy_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "color"
