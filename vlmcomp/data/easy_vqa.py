"""easy-VQA (Victor Zhou, MIT): questions about images of single shapes, read from its package."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache, partial
from pathlib import Path

from PIL import Image

from vlmcomp.data.tasks import Sample


class EasyVQA:
    """One split (``train`` or ``test``) of the installed ``easy-vqa`` package."""

    def __init__(self, split: str) -> None:
        import easy_vqa

        self.folder = Path(easy_vqa.__file__).parent / "data" / split
        self.questions: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for text, answer, image_id in json.loads((self.folder / "questions.json").read_text()):
            self.questions[image_id].append((text, answer))

    def image(self, image_id: int) -> Image.Image:
        """The image as RGB."""
        return Image.open(self.folder / "images" / f"{image_id}.png").convert("RGB")


@cache
def samples() -> tuple[Sample, ...]:
    """The test split.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        import easy_vqa  # noqa: F401 - fails early with a clear message
    except ImportError:
        raise ValueError("the task easy-vqa needs its data: pip install easy-vqa") from None
    split = EasyVQA("test")
    found: list[Sample] = []
    for image_id, pairs in split.questions.items():
        for number, (text, answer) in enumerate(pairs):
            load_image = partial(split.image, image_id)
            sample_id = f"{image_id:04d}-{number:02d}"
            found.append(Sample(sample_id, _question_type(answer), text, answer, load_image))
    return tuple(found)


def _question_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "color"
