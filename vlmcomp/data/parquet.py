"""Questions and images in Parquet shards: texts are memory-mapped by ``datasets``, images are read on access."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vlmcomp.data.images import open_image
from vlmcomp.files import naming_disk_errors

if TYPE_CHECKING:
    from datasets import Dataset

_NUM_SHARDS = re.compile(r"-\d+-of-(\d+)")  # number of shards in a file name
_ROWS = 16  # images that are in memory at once while reading


def list_shards(folder: Path, pattern: str, repo_id: str) -> list[Path]:
    """The files of ``pattern`` in ``folder``, a copy of the data set ``repo_id``, in order.

    Raises:
        ValueError: no files, or fewer than their names say.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise ValueError(f"{folder} has no {pattern}: it must be laid out like {repo_id} on the Hub")
    for file in files:
        match = _NUM_SHARDS.search(file.name)
        if match and int(match[1]) != len(files):
            total = int(match[1])
            raise ValueError(f"{folder} has {len(files)} of {total} files {pattern}: the copy is incomplete")
    return files


def load_text_columns(files: Sequence[Path], columns: list[str], repo_id: str) -> Dataset:
    """``columns`` of all ``files``, memory-mapped from the cache of the datasets library.

    Raises:
        ValueError: a column is missing, or a file is damaged.
        OSError: the cache cannot be written.
    """
    import pyarrow
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetsError

    try:
        for file in files:
            _check_columns(file, columns, repo_id)
        names = [str(file) for file in files]
        with naming_disk_errors(Path(config.HF_DATASETS_CACHE)):
            return load_dataset("parquet", data_files={"rows": names}, split="rows", columns=columns)
    except (DatasetsError, pyarrow.ArrowException) as error:
        raise ValueError(
            f"{files[0].parent} cannot be read as a copy of {repo_id}: a Parquet file is damaged"
        ) from error


def _check_columns(file: Path, columns: Sequence[str], repo_id: str) -> None:
    """Raises ``ValueError`` if ``file`` lacks a column."""
    from pyarrow import parquet

    present = parquet.read_schema(file).names
    if missing := [name for name in columns if name not in present]:
        raise ValueError(f"{file} has no column {missing[0]}, which {repo_id} has; it has {', '.join(present)}")


class ParquetImages:
    """The images in a column of Parquet shards, by row number; only the row group offsets are in memory."""

    def __init__(self, files: Sequence[Path], column: str, repo_id: str) -> None:
        """Read the metadata of ``files``; raises ``ValueError`` if one has no such column."""
        from pyarrow import parquet

        self._column = column
        self._groups: list[tuple[Path, int]] = []
        self._starts: list[int] = []
        total = 0
        for file in files:
            _check_columns(file, [column], repo_id)
            metadata = parquet.read_metadata(file)
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group))
                self._starts.append(total)
                total += metadata.row_group(group).num_rows

    def load_image(self, row: int) -> Image.Image:
        """The image of one row.

        Raises:
            ValueError: the row has no image, or an unreadable one.
        """
        index = bisect_right(self._starts, row) - 1
        file, group = self._groups[index]
        cell = self._read_cell(file, group, row - self._starts[index])
        if not isinstance(cell, dict) or not cell.get("bytes"):
            raise ValueError(f"{file}: row {row} has no image")
        try:
            return open_image(BytesIO(cell["bytes"]))
        except ValueError as error:
            raise ValueError(f"{file}, row {row}: {error}") from None

    def _read_cell(self, file: Path, group: int, offset: int) -> Any:
        """The cell of the image column in the row ``offset`` of a row group; None if it is empty."""
        from pyarrow import parquet

        with parquet.ParquetFile(file, memory_map=True) as shard:
            for batch in shard.iter_batches(_ROWS, row_groups=[group], columns=[self._column]):
                if offset < len(batch):
                    return batch.column(0)[offset].as_py()
                offset -= len(batch)
        return None
