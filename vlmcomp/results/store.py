"""Reports on disk: ``precomputed/<hardware>/<model>/<steps+precision>.json``, per-sample rows beside each."""

from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path
from typing import Any

from vlmcomp.files import write_bytes, write_json
from vlmcomp.recipe import Recipe
from vlmcomp.results.schema import Report

PRECOMPUTED = Path(__file__).resolve().parents[2] / "precomputed"
Rows = list[dict[str, Any]]  # one dict a sample: id, type, question, reference, answer
_SLUG = re.compile(r"[a-z0-9][a-z0-9.-]*")
_log = logging.getLogger(__name__)


def path(hardware_slug: str, recipe: Recipe, root: Path = PRECOMPUTED) -> Path:
    """Where the report of ``recipe`` on that hardware lies.

    Raises:
        ValueError: the slug would not make one folder name.
    """
    if not _SLUG.fullmatch(hardware_slug):
        raise ValueError(f"'{hardware_slug}' is not a hardware name: use lower-case letters, digits, '.' and '-'")
    return root / hardware_slug / recipe.model / f"{recipe.name}.json"


def save(report: Report, rows: dict[str, Rows] | None = None, root: Path = PRECOMPUTED) -> Path:
    """Write a report, and its rows by task, so that a reader finds the old files or the new ones, never half of one.

    Rows are written first: a report that is there has its rows. Without ``rows`` those of an older report go.

    Returns:
        The report's path.
    """
    target = path(report.hardware.slug, Recipe.parse(report.recipe), root)
    target.parent.mkdir(parents=True, exist_ok=True)
    if rows is not None:
        text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        write_bytes(_rows_path(target), gzip.compress(text.encode(), mtime=0))
    write_json(target, report.to_dict())
    if rows is None:
        _rows_path(target).unlink(missing_ok=True)
    return target


def load(file: Path) -> Report:
    """Read one report.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, of another schema, or not where its recipe and hardware belong.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        report = Report.from_dict(data)
        home = path(report.hardware.slug, Recipe.parse(report.recipe), file.parent.parent.parent)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a report: {error}") from None
    if home != file:
        raise ValueError(f"{file} is not a report: it holds {report.recipe} on {report.hardware.slug}")
    return report


def load_all(root: Path = PRECOMPUTED) -> list[Report]:
    """Every readable report below ``root``, ordered by path; a damaged file costs one warning, not the rest."""
    reports = []
    for file in sorted(root.glob("*/*/*.json")):
        try:
            reports.append(load(file))
        except (OSError, ValueError) as error:
            _log.warning("left out %s", error)
    return reports


def load_rows(report: Report, root: Path = PRECOMPUTED) -> dict[str, Rows]:
    """The rows of a report by task; empty, with one warning if the file is damaged, when there are none to read."""
    file = _rows_path(path(report.hardware.slug, Recipe.parse(report.recipe), root))
    try:
        rows = json.loads(gzip.decompress(file.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, ValueError) as error:
        _log.warning("left out %s: %s", file, error)
        return {}
    if not isinstance(rows, dict):
        _log.warning("left out %s: it holds no rows by task", file)
        return {}
    return rows


def _rows_path(report_path: Path) -> Path:
    return report_path.with_name(f"{report_path.name.removesuffix('.json')}.rows.json.gz")
