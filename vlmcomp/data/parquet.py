"""Questions and images in parquet shards: texts memory-mapped by ``datasets``, an image read when it is looked at."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from vlmcomp.data.images import open_image

if TYPE_CHECKING:
    from datasets import Dataset

_PART = re.compile(r"-\d+-of-(\d+)")  # what a shard's name says about the others
_ROWS = 16  # of images are read together: these and no more are in memory


def shards(folder: Path, pattern: str, place: str) -> list[Path]:
    """The files of ``pattern`` in ``folder``, in order; ``place`` is the data set that it is a copy of.

    Raises:
        ValueError: there are none, or not as many as their names say.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise ValueError(f"{folder} holds no {pattern}: it must be laid out like {place} on the Hub")
    for part in filter(None, (_PART.search(file.name) for file in files)):
        if int(part[1]) != len(files):
            raise ValueError(f"{folder} holds {len(files)} of {int(part[1])} files {pattern}: the copy is not whole")
    return files


def texts(files: Sequence[Path], columns: list[str], place: str) -> Dataset:
    """Those columns of all ``files``, memory-mapped from the cache of the datasets library.

    Raises:
        ValueError: a column is not there, or a file cannot be read.
    """
    import pyarrow
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        for file in files:
            _check_columns(file, columns, place)
        names = [str(file) for file in files]
        return load_dataset("parquet", data_files={"rows": names}, split="rows", columns=columns)
    except (DatasetsError, pyarrow.ArrowException) as error:
        raise ValueError(f"{files[0].parent} cannot be read as a copy of {place}: a parquet file is damaged") from error


def _check_columns(file: Path, columns: Sequence[str], place: str) -> None:
    from pyarrow import parquet

    there = parquet.read_schema(file).names
    if lost := [name for name in columns if name not in there]:
        raise ValueError(f"{file} has no column {lost[0]}, which {place} has; it has {', '.join(there)}")


class Pictures:
    """The images in a column of parquet shards, by row number. Of the shards only where row groups begin is held."""

    def __init__(self, files: Sequence[Path], column: str, place: str) -> None:
        """Raises ``ValueError`` where a file has no such column."""
        from pyarrow import parquet

        self._column, self._groups, self._starts = column, [], []
        total = 0
        for file in files:
            _check_columns(file, [column], place)
            facts = parquet.read_metadata(file)
            for group in range(facts.num_row_groups):
                self._groups.append((file, group))
                self._starts.append(total)
                total += facts.row_group(group).num_rows

    def draw(self, row: int) -> Image.Image:
        """Raises ``ValueError``: the row holds no image that can be read."""
        from pyarrow import parquet

        at = bisect_right(self._starts, row) - 1
        (file, group), offset, cell = self._groups[at], row - self._starts[at], None
        with parquet.ParquetFile(file, memory_map=True) as shard:
            for batch in shard.iter_batches(_ROWS, row_groups=[group], columns=[self._column]):
                if offset < len(batch):
                    cell = batch.column(0)[offset].as_py()
                    break
                offset -= len(batch)
        if not isinstance(cell, dict) or not cell.get("bytes"):
            raise ValueError(f"{file}: row {row} holds no image")
        try:
            return open_image(BytesIO(cell["bytes"]))
        except ValueError as error:
            raise ValueError(f"{file}, row {row}: {error}") from None
