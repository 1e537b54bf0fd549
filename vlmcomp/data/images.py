"""Images and questions from users, validated before they reach a model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_QUESTION = 500  # characters
MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # a subset of Pillow's: some run other programs


def open_image(source: str | Path | BinaryIO | Image.Image | None) -> Image.Image:
    """The image as upright RGB.

    Raises:
        ValueError: no image, an unreadable one, or one with more than ``MAX_PIXELS`` pixels.
    """
    if source is None:
        raise ValueError("there is no image: choose or upload one first")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = source if isinstance(source, Image.Image) else Image.open(source, formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"the image has {width} x {height} pixels: at most {MAX_PIXELS // 1_000_000} million fit")
        if min(width, height) < 2 or max(width, height) > 100 * min(width, height):
            raise ValueError(f"the image is only {width} x {height} pixels: choose one that shows something")
        if image.mode.startswith("I"):  # 16 bits, which a plain conversion would clip
            image = image.convert("I").point(lambda value: value * (255 / 65535)).convert("L")
        if image.mode in ("RGBA", "LA", "P"):  # transparent pixels become white, as in a browser
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError:
        raise ValueError(f"the image is too large: at most {MAX_PIXELS // 1_000_000} million pixels fit") from None
    except FileNotFoundError:
        raise ValueError(f"there is no image file {source}") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"the image cannot be read ({type(error).__name__}): use a PNG, JPEG or WebP file") from None


def normalize_question(text: str | None) -> str:
    """The question on one line.

    Raises:
        ValueError: it is empty, or longer than ``MAX_QUESTION`` characters.
    """
    text = " ".join((text or "").replace("<image>", " ").split())
    text = "".join(c for c in text if c.isprintable())
    if not text:
        raise ValueError("there is no question: type one first")
    if len(text) > MAX_QUESTION:
        raise ValueError(f"the question has {len(text)} characters: at most {MAX_QUESTION} fit")
    return text
