"""Calibration samples from a data set on the Hub: its first rows are streamed once, and then read from the user's cache
folder."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from vlmcomp import files, hub
from vlmcomp.data.bad_rows import BadRow
from vlmcomp.data.calibration_data import CalibrationSample, fill_in
from vlmcomp.data.calibration_source import ANSWER, QUESTION, HubSource
from vlmcomp.data.hub_samples import read_path
from vlmcomp.data.images import open_image
from vlmcomp.data.tasks import majority_answer
from vlmcomp.feedback import Progress, error_summary

if TYPE_CHECKING:
    from datasets import IterableDataset

FOLDER = "calibration"  # in the cache folder
_FORMAT = 1  # of a cached file; raise it when what is read from a row changes
_MAX_BAD_ROWS = 100  # beside the good ones; a set of which most rows cannot be used is not read to its end
_COMMIT = re.compile("[0-9a-f]{40}")
_ROWS_FILE = "rows.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubRow:
    """A sample as it is stored, its image as a file; or why the row cannot be used."""

    number: int
    image: bytes = b""
    question: str = ""
    answer: str = ""
    fault: str = ""


def load_hub_samples(
    source: HubSource, count: int, answers: str, progress: Progress
) -> tuple[list[CalibrationSample], list[BadRow], HubSource]:
    """The first samples of ``source``.

    Args:
        source: what is read.
        count: number of samples if ``source`` states none.
        answers: ``given``, or ``self`` if the rows need none.
        progress: called with what is done, and the fraction done.

    Returns:
        The samples, the rows that cannot be used, and ``source`` with its commit.

    Raises:
        ValueError: one sentence: no network, no such data set, revision, configuration, split or column, or a library
            that is missing.
    """
    source = replace(source, samples=source.samples or count)
    rows = _read_cache(source, answers) if _COMMIT.fullmatch(source.revision or "") else None
    if rows is None:
        source = replace(source, revision=_find_commit(source))
        rows = _read_cache(source, answers)
    if rows is None:
        rows = list(_stream(source, answers, progress))
        _write_cache(source, answers, rows)
    if not rows:
        raise ValueError(f"{source} has no rows")
    samples = [(open_image(io.BytesIO(row.image)), row.question, row.answer) for row in rows if not row.fault]
    bad = [BadRow(None, f"{source.repo_id}, row {row.number}: {row.fault}", row.number) for row in rows if row.fault]
    return samples, bad, source


def _find_commit(source: HubSource) -> str:
    """The commit of the revision; raises ``ValueError`` if the Hub cannot be reached or has none."""
    try:
        return str(HfApi().dataset_info(source.repo_id, revision=source.revision).sha)
    except HFValidationError:
        raise ValueError(f"'{source.repo_id}' is no name of a data set on the Hub: write OWNER/NAME") from None
    except hub.HUB_ERRORS as error:
        if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
            _raise(error, source)
        raise ValueError(
            f"the Hub cannot be reached for the calibration data {source.repo_id}: try again with a network, or give "
            "--calibration-data mine.jsonl with data of your own, or shapes for drawn scenes"
        ) from error


def _raise(error: Exception, source: HubSource) -> NoReturn:
    """Raise ``error`` of the Hub's client again as one sentence."""
    hub.raise_hub_error(error, source.repo_id, source.repo_id, source.revision, gated=False, repo_type="dataset")


def _stream(source: HubSource, answers: str, progress: Progress) -> Iterator[HubRow]:
    """Rows until there are as many good ones as ``source`` states; of Parquet files the row groups that hold them are
    downloaded, and a few that are read ahead."""
    assert source.samples is not None
    text = f"downloading calibration data, {source.repo_id}" + (f" {source.config}" if source.config else "")
    progress(text, 0.0)
    good = bad = 0
    number = source.skip
    try:
        for cells in _open(source).skip(source.skip):
            row = _read_row(source, answers, number, cells)
            yield row
            good, bad, number = good + (not row.fault), bad + bool(row.fault), number + 1
            progress(text, good / source.samples)
            if good == source.samples or bad > good + _MAX_BAD_ROWS:
                return
    except hub.HUB_ERRORS as error:
        _raise(error, source)


def _open(source: HubSource) -> IterableDataset:
    """The data set, whose images are not decoded.

    Raises:
        ValueError: it has no such configuration, split or column, or is in a format that needs code of its own.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(f"{source.repo_id} is read by datasets: pip install -r requirements.txt") from None
    try:
        data = load_dataset(source.repo_id, source.config, split=source.split, revision=source.revision, streaming=True)
    except hub.HUB_ERRORS as error:
        _raise(error, source)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source} cannot be read: {error_summary(error)}") from error
    names = data.column_names or list(next(iter(data), {}))
    wanted = [path.partition(".")[0] for path in (source.image, source.question, source.answer)]
    optional = {QUESTION, ANSWER}  # by their default names: a source of images may have neither
    if missing := [name for name in wanted if name not in names and name not in optional]:
        raise ValueError(f"{source} has no column {missing[0]}: it has {', '.join(names)}")
    data = data.select_columns([name for name in dict.fromkeys(wanted) if name in names])
    return data.decode(False) if data.features is not None else data


def _read_row(source: HubSource, answers: str, number: int, cells: dict[str, Any]) -> HubRow:
    try:
        question = _read_text(cells, source.question)
        answer = _read_text(cells, source.answer)
        if isinstance(question, list):
            if not question:
                raise ValueError(f"it has no {QUESTION}")
            chosen = number % len(question)
            question, answer = question[chosen], answer[chosen] if isinstance(answer, list) else answer
        if isinstance(answer, list):
            answer = majority_answer(answer)
        image = _read_image(read_path(cells, source.image))
        return HubRow(number, image, *fill_in(question, answer, answers))
    except ValueError as error:
        return HubRow(number, fault=str(error))
    except (KeyError, IndexError, TypeError) as error:
        return HubRow(number, fault=f"it does not read as its columns are described ({error})")


def _read_text(cells: dict[str, Any], path: str) -> Any:
    """A text or a list of texts; None if the data set has no such column. Raises ``TypeError`` for anything else."""
    if path.partition(".")[0] not in cells:
        return None
    value = read_path(cells, path)
    parts = value if isinstance(value, list) else [value]
    if not all(part is None or isinstance(part, str) for part in parts):
        raise TypeError(f"{path} is {type(parts[0]).__name__}, not text")
    return value


def _read_image(value: Any) -> bytes:
    """The bytes of an image file. Raises ``ValueError`` if there are none."""
    value = value[0] if isinstance(value, list) and value else value
    content = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(content, bytes):
        raise ValueError("it has no image")
    open_image(io.BytesIO(content))
    return content


def _cache_file(source: HubSource, answers: str) -> Path:
    key = json.dumps([_FORMAT, answers, asdict(source)], sort_keys=True)
    return files.cache_dir() / FOLDER / f"hub-{hashlib.sha256(key.encode()).hexdigest()[:16]}.zip"


def _read_cache(source: HubSource, answers: str) -> list[HubRow] | None:
    """The stored rows; None if there are none that can be used. The ZIP format's checksums find damage."""
    try:
        with zipfile.ZipFile(_cache_file(source, answers)) as stored:
            rows = [HubRow(**row) for row in json.loads(stored.read(_ROWS_FILE))]
            return [row if row.fault else replace(row, image=stored.read(str(row.number))) for row in rows]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        _log.warning("the cached calibration data of %s cannot be used: %s", source.repo_id, error)
        return None


def _write_cache(source: HubSource, answers: str, rows: list[HubRow]) -> None:
    """Store the image files as they are, and the texts."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as stored:  # without compression, which image files have of their own
        texts = [{k: v for k, v in asdict(row).items() if k != "image"} for row in rows]
        stored.writestr(_ROWS_FILE, json.dumps(texts))
        for row in rows:
            if not row.fault:
                stored.writestr(str(row.number), row.image)
    try:
        files.write_bytes(_cache_file(source, answers), content.getvalue())
    except OSError as error:
        _log.warning("the calibration data of %s is not cached: %s", source.repo_id, error)
