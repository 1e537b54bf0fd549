"""JSON Lines files of users, whatever editor or system wrote them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

TASK_FILE = "task.jsonl"  # in the folder of a task


def read_lines(file: Path) -> list[tuple[int, str]]:
    """Number and text of each line of ``file`` that is not blank.

    Encodings are those of JSON, with or without a byte order mark: UTF-8, UTF-16 and UTF-32. Lines end with LF, CR LF
    or CR alone: other separators of Unicode, such as U+2028, are allowed within a JSON string. Bytes that are not UTF-8
    become lone surrogates, which ``parse_object`` refuses.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text.
    """
    data = file.read_bytes()
    try:
        text = data.decode(json.detect_encoding(data), errors="surrogateescape")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text in UTF-8 or UTF-16: save it as UTF-8") from None
    lines = (line.strip("\ufeff \t\n") for line in io.StringIO(text, newline=None))  # joined files have marks inside
    return [(number, line) for number, line in enumerate(lines, 1) if line]


def parse_object(line: str, columns: str) -> dict[str, Any]:
    """The JSON object of one line.

    Args:
        line: as ``read_lines`` returns it.
        columns: what the object must have, for the error.

    Raises:
        ValueError: it is no object, or its text is not Unicode.
    """
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("its text is not valid Unicode: save the file as UTF-8") from None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError(f"it must be a JSON object with {columns}")
    return row
