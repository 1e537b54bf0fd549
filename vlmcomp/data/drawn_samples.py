"""The default calibration data, drawn once on a machine and then read from the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from vlmcomp import files
from vlmcomp.data import calibration_data, noun_phrases, questions, scenes
from vlmcomp.data.calibration_data import CALIBRATION_SEED, CalibrationSample, synthetic_calibration_data
from vlmcomp.feedback import format_count

FOLDER = "calibration"  # in the cache folder
_SOURCES = (calibration_data, noun_phrases, questions, scenes)  # the samples depend on their code
_log = logging.getLogger(__name__)


def default_calibration_data(count: int, seed: int = CALIBRATION_SEED) -> list[CalibrationSample]:
    """What ``synthetic_calibration_data`` draws, from the cache if it is there.

    A cache that cannot be read or written is no error: the samples are drawn.
    """
    try:
        file = files.cache_dir() / FOLDER / f"shapes-{count}-{seed}-{_code_digest()}.npz"
    except OSError:  # no home folder
        return list(synthetic_calibration_data(count, seed))
    try:
        return _read(file, count)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s cannot be used and is drawn again: %s", file, error)
    samples = list(synthetic_calibration_data(count, seed))
    try:
        _write(file, samples)
    except OSError as error:
        _log.warning("the calibration samples are not cached: %s", error)
    return samples


@cache
def _code_digest() -> str:
    """Of everything that decides what is drawn."""
    digest = hashlib.sha256(f"numpy {np.__version__}, pillow {PIL.__version__}".encode())
    for module in _SOURCES:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:12]


def _read(file: Path, count: int) -> list[CalibrationSample]:
    with np.load(file, allow_pickle=False) as arrays:  # verifies the checksums
        pixels, texts = arrays["pixels"], json.loads(arrays["texts"].tobytes())
    if not len(pixels) == len(texts) == count:
        raise ValueError(f"it contains {format_count(len(pixels), 'sample')} instead of {count}")
    return [(Image.fromarray(image), question, answer) for image, (question, answer) in zip(pixels, texts)]


def _write(file: Path, samples: list[CalibrationSample]) -> None:
    content = io.BytesIO()
    texts = json.dumps([[question, answer] for _, question, answer in samples]).encode()
    pixels = np.stack([np.asarray(image) for image, _, _ in samples])
    np.savez(content, pixels=pixels, texts=np.frombuffer(texts, dtype=np.uint8))
    files.write_bytes(file, content.getvalue())
    for other in file.parent.glob(f"{file.stem.rpartition('-')[0]}-*.npz"):
        if other != file:  # drawn by other code
            with contextlib.suppress(OSError):
                other.unlink()
