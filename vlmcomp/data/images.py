"""Images and questions from users, validated before they reach a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile

from vlmcomp.data.unicode_text import clean, escape, is_blank
from vlmcomp.feedback import format_count

try:
    from pillow_heif import register_heif_opener
except ImportError:  # optional
    register_heif_opener = None

MAX_QUESTION = 500  # characters
IMAGE_PLACEHOLDER = "<image>"  # no part of a question, also for models whose own image token is another one
MAX_PIXELS = 50_000_000
FORMATS = ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"]  # a subset of Pillow's: some run other programs
READABLE = "PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF file (HEIC: pip install pillow-heif)"
if register_heif_opener is not None:
    register_heif_opener()
    FORMATS.append("HEIF")
    READABLE = "PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP or TIFF file"

_TRANSPOSES = {  # EXIF orientation -> what turns the pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # one channel of more than 8 bits
_KEY_SCALE = {"L;2": 85, "L;4": 17}  # PNG states a transparent grey in the file's bits; Pillow widens the pixels alone


def open_image(source: str | Path | BinaryIO | Image.Image | None) -> Image.Image:
    """The image as upright RGB of 8 bits, on white where it is transparent; the first frame of several.

    Raises:
        ValueError: no image, an unreadable one, or one with more than ``MAX_PIXELS`` pixels.
    """
    if source is None or (isinstance(source, str) and not source.strip()):
        raise ValueError("there is no image: choose or upload one first")
    if not isinstance(source, str | Path | Image.Image) and not hasattr(source, "read"):
        raise ValueError(f"an image must be a path or a PIL image, not {type(source).__name__}")
    if isinstance(source, str | Path) and "\0" in str(source):
        raise ValueError(f"there is no image file {escape(source)}")
    with _decoder_errors(source):
        image = source if isinstance(source, Image.Image) else Image.open(source, formats=FORMATS)
    _check_size(*image.size)
    with _decoder_errors(source):
        image = _upright(image)
    return _to_rgb(image)


@contextmanager
def _decoder_errors(source: object) -> Iterator[None]:
    """Whatever Pillow raises inside the context becomes one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oversized images are refused, damaged metadata are passed over
            yield
    except Image.DecompressionBombError:
        raise ValueError(f"the image is too large: at most {MAX_PIXELS // 1_000_000} million pixels fit") from None
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"there is no image file {escape(source)}") from None
    except IsADirectoryError:
        raise ValueError(f"{escape(source)} is a folder: give an image file") from None
    except Exception as error:  # decoders raise many types, RuntimeError and EOFError among them
        raise ValueError(f"the image cannot be read ({type(error).__name__}): use a {READABLE}") from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"the image has {width} x {height} pixels: at most {MAX_PIXELS // 1_000_000} million fit")
    if min(width, height) < 2 or max(width, height) > 100 * min(width, height):
        raise ValueError(f"the image is only {width} x {height} pixels: choose one that shows something")


def _upright(image: Image.Image) -> Image.Image:
    """The decoded image, turned as its EXIF data say.

    ``ImageOps.exif_transpose`` also rewrites the other tags, which fails on those of many cameras.
    """
    tile = image.tile if isinstance(image, ImageFile.ImageFile) else []  # how a file stores its pixels
    key_scale = _KEY_SCALE.get(str(tile[0].args), 1) if tile else 1
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of many types, and no reason to refuse the pixels
        orientation = 1
    method = _TRANSPOSES.get(orientation)
    upright = image.copy() if method is None else image.transpose(method)
    if isinstance(key := upright.info.get("transparency"), int):
        upright.info["transparency"] = key * key_scale
    return upright


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB without metadata, so that no later reader turns the image again."""
    if image.mode in _WIDE_MODES:
        image = _eight_bits(image)
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    key: Any = image.info.get("transparency")
    if not _is_key(key, image.mode):
        image.info.pop("transparency", None)
    elif image.mode == "RGB" and max(key) > 255:  # of 16 bits, as the file's pixels were
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.has_transparency_data:  # transparent pixels become white, as in a browser
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    rgb = image.convert("RGB")
    rgb.info.clear()
    return rgb


def _is_key(key: Any, mode: str) -> bool:
    """Whether ``key``, which programs write as they like, is the transparent color of an image of that mode."""
    if mode == "P":
        return (isinstance(key, int) and 0 <= key < 256) or (isinstance(key, bytes) and len(key) <= 256)
    if mode == "RGB":
        return isinstance(key, tuple) and len(key) == 3 and all(isinstance(value, int) for value in key)
    return isinstance(key, int)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Integers of 16 or 32 bits, or floats, as grey values from 0 to 255, with an alpha channel if the file has one.

    Numbers have no unit: those from 0 to 1 (floats), to 255 or to 65535 are read as shares of that limit, and all
    others as shares of the image's own range.
    """
    values = np.asarray(image, np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("the image holds no finite number: choose another one")
    low, high = float(finite.min()), float(finite.max())
    limits = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 65535.0)}.get(image.mode, (65535.0,))
    if low >= 0 and high <= limits[-1]:
        low, high = 0.0, next(limit for limit in limits if high <= limit)
    scale = 255 / (high - low) if high > low else 0.0
    levels = np.nan_to_num(values * scale - low * scale, nan=0.0, posinf=255.0, neginf=0.0)
    grey = Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))))


def has_text(value: object) -> bool:
    """Whether ``value`` is a text of which a model is given something."""
    return isinstance(value, str) and not is_blank(clean(value, (IMAGE_PLACEHOLDER,)))


def normalize_question(text: str | None) -> str:
    """The question as a model is given it (``unicode_text.clean``), without placeholders of an image.

    Raises:
        ValueError: it is no text, there is nothing to see in it, or it is longer than ``MAX_QUESTION`` characters.
    """
    if text is not None and not isinstance(text, str):
        raise ValueError(f"the question must be a text, not {type(text).__name__}")
    text = clean(text or "", (IMAGE_PLACEHOLDER,))
    if is_blank(text):
        raise ValueError("there is no question: type one first")
    if len(text) > MAX_QUESTION:
        raise ValueError(f"the question has {format_count(len(text), 'character')}: at most {MAX_QUESTION} fit")
    return text
