"""Why a file of a model cannot be read: cut off, overwritten, empty, or not downloaded yet."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from jinja2 import Environment, TemplateSyntaxError
from jinja2.ext import loopcontrols
from safetensors import SafetensorError, safe_open

from vlmcomp.feedback import error_summary

AGAIN = "copy or download it again"
_OWN_TAGS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # of chat templates, known to transformers alone
_LFS_POINTER = b"version https://git-lfs"


def file_damage(file: Path) -> str:
    """Why ``file`` cannot be read, and what to do; empty if it can."""
    try:
        with file.open("rb") as stream:
            head = stream.read(len(_LFS_POINTER))
        if not head:
            return f"is empty: {AGAIN}"
        if head == _LFS_POINTER:
            return f"is a git-LFS pointer and not the file itself: run 'git lfs pull' in {file.parent}"
        return _format_damage(file, head)
    except OSError as error:
        return f"cannot be read ({error.strerror or error_summary(error)}): {AGAIN}"


def _format_damage(file: Path, head: bytes) -> str:
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="numpy"):
                return ""
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        if file.suffix in (".jinja", ".txt"):
            text = file.read_text(encoding="utf-8")
        if file.suffix == ".jinja":
            Environment(extensions=[loopcontrols]).parse(_OWN_TAGS.sub("", text))
    except SafetensorError as error:
        return f"is cut off or damaged ({error_summary(error)}): {AGAIN}"
    except TemplateSyntaxError as error:
        return f"is cut off or damaged ({error_summary(error)}): {AGAIN}"
    except UnicodeDecodeError as error:
        return f"is no text in UTF-8 ({error_summary(error)}): {AGAIN}"
    except ValueError as error:
        return f"is no valid JSON ({error_summary(error)}): {AGAIN}"
    is_pickle = head.startswith(b"\x80")  # of PyTorch before 1.6; later ones write ZIP files
    if file.suffix == ".bin" and not is_pickle and not zipfile.is_zipfile(file):
        return f"is cut off or damaged: {AGAIN}"
    return ""
