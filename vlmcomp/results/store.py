"""Reports on disk: ``precomputed/<hardware>/<model>/<steps+precision>.json``, with the predictions beside each."""

from __future__ import annotations

import gzip
import json
import logging
import re
import zlib
from pathlib import Path
from typing import Any

from vlmcomp import files
from vlmcomp.recipe import Recipe
from vlmcomp.results.schema import Report

PRECOMPUTED = files.bundled_folder("precomputed")
Predictions = list[dict[str, Any]]  # one dict a sample: id, type, question, reference, answer
_TEXTS = ("id", "type", "question", "reference", "answer")  # of a prediction
_SLUG = re.compile(r"[a-z0-9][a-z0-9.-]*")
_log = logging.getLogger(__name__)


def report_path(hardware_slug: str, recipe: Recipe, root: Path = PRECOMPUTED) -> Path:
    """Path of the report of ``recipe`` on that hardware.

    Raises:
        ValueError: the slug is not a valid folder name.
    """
    if not _SLUG.fullmatch(hardware_slug):
        raise ValueError(f"'{hardware_slug}' is not a hardware name: use lower-case letters, digits, '.' and '-'")
    return root / hardware_slug / recipe.model / f"{recipe.name}.json"


def save(report: Report, predictions: dict[str, Predictions] | None = None, root: Path = PRECOMPUTED) -> Path:
    """Write a report and its predictions atomically.

    Both are replaced together, predictions first: a report that exists has its predictions.

    Args:
        report: its hardware and recipe determine the path.
        predictions: by task; None deletes those of an older report.
        root: results folder.

    Returns:
        The report's path.
    """
    path = report_path(report.hardware.slug, Recipe.parse(report.recipe), root)
    contents: dict[Path, bytes] = {}
    if predictions is not None:
        text = json.dumps(predictions, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        contents[_predictions_path(path)] = gzip.compress(text.encode(), mtime=0)
    files.write_files(contents | {path: files.to_json(report.to_dict()).encode()})
    if predictions is None:
        _predictions_path(path).unlink(missing_ok=True)
    return path


def load(file: Path) -> Report:
    """Read one report.

    Raises:
        OSError: the file cannot be read.
        ValueError: damaged, of another schema version, or not at the path of its recipe and hardware.
    """
    try:
        data = json.loads(file.read_bytes())  # an editor may have saved it with a byte order mark
        report = Report.from_dict(data)
        expected = report_path(report.hardware.slug, Recipe.parse(report.recipe), file.parent.parent.parent)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is not a report: {error}") from None
    if expected != file:
        raise ValueError(f"{file} is not a report: it holds {report.recipe} on {report.hardware.slug}")
    return report


def load_all(root: Path = PRECOMPUTED) -> list[Report]:
    """Every readable report below ``root``, ordered by path; damaged files are skipped with a warning."""
    reports = []
    for file in sorted(root.glob("*/*/*.json")):
        try:
            reports.append(load(file))
        except (OSError, ValueError) as error:
            _log.warning("skipped %s", error)
    return reports


def load_predictions(report: Report, root: Path = PRECOMPUTED) -> dict[str, Predictions]:
    """The predictions of a report by task; empty if there are none, or with a warning if the file is damaged."""
    file = _predictions_path(report_path(report.hardware.slug, Recipe.parse(report.recipe), root))
    try:
        predictions = json.loads(gzip.decompress(file.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
        _log.warning("skipped %s: %s", file, error)
        return {}
    if not isinstance(predictions, dict) or not all(map(_are_predictions, predictions.values())):
        _log.warning("skipped %s: it holds no predictions by task; measure the recipe again", file)
        return {}
    return predictions


def _are_predictions(rows: Any) -> bool:
    return isinstance(rows, list) and all(map(_is_prediction, rows))


def _is_prediction(row: Any) -> bool:
    """Whether ``row`` has the texts of a prediction, and references that are texts if it has any."""
    if not isinstance(row, dict):
        return False
    references = row.get("references", ["none"])
    if not isinstance(references, list) or not references:
        return False
    return all(isinstance(text, str) for text in (*map(row.get, _TEXTS), *references))


def _predictions_path(path: Path) -> Path:
    """The predictions file beside the report ``path``."""
    return path.with_name(f"{path.name.removesuffix('.json')}.rows.json.gz")
