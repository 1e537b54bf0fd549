"""Calibration sources as users write them: a name, a file, a folder or a data set on the Hub, each with a weight."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from vlmcomp.data.json_lines import TASK_FILE

GIVEN, SELF = "given", "self"
ANSWERS = (GIVEN, SELF)  # those of the samples, or those of the original model
IMAGE, QUESTION, ANSWER = "image", "question", "answer"  # columns
SHAPES, MIXTURE = "shapes", "mixture"
SYNTAX = (
    "mixture, shapes, a JSON Lines file, a folder, or hub:OWNER/NAME@REVISION?config=C&split=S&image=I&question=Q&"
    "answer=A; several with commas, each with *WEIGHT"
)
_HUB = re.compile(r"hub:(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^?]+))?(?:\?(?P<options>.*))?")
_WEIGHT = re.compile(r"(?P<source>.+)\*(?P<weight>[^*/]*)")
_IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".heic"}


@dataclass(frozen=True)
class HubSource:
    """Rows of a data set on the Hub, and the meaning of its columns.

    A column ``a.b`` is the field b of a struct a, or of each struct in a list. Where the questions of a row are a list,
    each row gives one of them, with its answer: the row's number chooses which. Several answers to one question are
    those of several people, of which the most common is taken. Of several images the first is taken.

    Attributes:
        revision: branch, tag or commit; None for the newest.
        config: the data set's configuration (subset); None if it has but one, or a default.
        samples: number of samples; None for the model's number.
        skip: rows at the beginning that are passed over.
    """

    repo_id: str
    revision: str | None = None
    config: str | None = None
    split: str = "train"
    image: str = IMAGE
    question: str = QUESTION
    answer: str = ANSWER
    samples: int | None = None
    skip: int = 0

    def __str__(self) -> str:
        """``hub:owner/name@REVISION?config=...``: what differs from the defaults, as it is written as a source."""
        default = HubSource(self.repo_id)
        stated = {name: value for name, value in asdict(self).items() if value != getattr(default, name)}
        stated.pop("revision", None)
        text = f"hub:{self.repo_id}" + (f"@{self.revision}" if self.revision else "")
        return text + ("?" + "&".join(f"{k}={v}" for k, v in stated.items()) if stated else "")


_HUB_OPTIONS = [field.name for field in fields(HubSource) if field.name not in ("repo_id", "revision")]


@dataclass(frozen=True)
class Source:
    """One source.

    Attributes:
        place: ``shapes`` or ``mixture``, a JSON Lines file, a folder of images alone, or a data set on the Hub.
        weight: of each of its samples in the statistics, relative to those of other sources.
    """

    place: str | Path | HubSource
    weight: float = 1.0


def parse_sources(text: str) -> list[Source]:
    """The sources in ``text``, with commas between them.

    Raises:
        ValueError: one that does not exist or is misspelled; the sentence says what can be written.
    """
    if text.strip() and Path(text).exists():  # whatever characters its name has
        return [Source(_local(Path(text)))]
    sources = [_parse_source(part.strip()) for part in text.split(",")]
    if len({source.place for source in sources}) < len(sources):
        raise ValueError(f"'{text}' names a calibration source twice: give it once, with *WEIGHT")
    return sources


def _parse_source(text: str) -> Source:
    match = None if not text or Path(text).exists() else _WEIGHT.fullmatch(text)
    if match is None:
        return Source(_parse_place(text))
    try:
        weight = float(match["weight"])
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise ValueError(f"'{text}' has the weight '{match['weight']}': give a number above 0, such as *3")
    return Source(_parse_place(match["source"].strip()), weight)


def _parse_place(text: str) -> str | Path | HubSource:
    if text in (SHAPES, MIXTURE):
        return text
    if text.startswith("hub:"):
        return _parse_hub(text)
    path = Path(text)
    if text and path.exists():
        return _local(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@.*|\?.*)?", text) and not path.suffix.startswith(".json"):
        raise ValueError(f"there is no file or folder {text}: write hub:{text} for a data set on the Hub")
    if path.suffix:
        raise ValueError(f"the calibration file {text} cannot be read: there is no such file")
    raise ValueError(f"there is no calibration source '{text}': give {SYNTAX}")


def _local(path: Path) -> Path:
    """A JSON Lines file, the one in a folder, or a folder of images without one."""
    if path.is_file():
        return path
    if (path / TASK_FILE).is_file():
        return path / TASK_FILE
    found = sorted(path.glob("*.jsonl"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{path} has {len(found)} JSON Lines files: give one of them, such as {found[0]}")
    if not list_images(path):
        raise ValueError(f"{path} has neither a JSON Lines file nor images")
    return path


def list_images(folder: Path) -> list[Path]:
    """The image files in ``folder`` by their names' endings, in order."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _IMAGE_ENDINGS)


def _parse_hub(text: str) -> HubSource:
    match = _HUB.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no data set on the Hub: write hub:OWNER/NAME, or hub:OWNER/NAME@REVISION")
    options: dict[str, Any] = {}
    for option in filter(None, (match["options"] or "").split("&")):
        name, _, value = option.partition("=")
        if name not in _HUB_OPTIONS or not value:
            raise ValueError(f"'{option}' in '{text}' is no option: give NAME=VALUE with {', '.join(_HUB_OPTIONS)}")
        options[name] = unquote(value)
    options |= {name: _count(name, options[name], text) for name in ("samples", "skip") if name in options}
    if options.get("samples") == 0:
        raise ValueError(f"'{text}' asks for no samples: give samples=256, or leave it out")
    return HubSource(match["repo"], match["revision"], **options)


def _count(name: str, value: str, text: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"'{name}={value}' in '{text}' is no number")
    return int(value)
