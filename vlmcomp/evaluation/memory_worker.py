"""The fresh process in which a checkpoint's memory is measured: ``python -m vlmcomp.evaluation.memory_worker JOB``.

A process that has built a model keeps what building left behind, so its resident set says nothing about answering.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

from vlmcomp.compression import checkpoint
from vlmcomp.evaluation.memory_tracker import MemoryTracker
from vlmcomp.feedback import error_summary
from vlmcomp.runtime.engine import Engine


def _main(job: dict[str, Any]) -> None:
    folder = Path(job["folder"])
    with Image.open(job["image"]) as image:
        image.load()
    importlib.import_module("bitsandbytes")  # before memory is tracked: a library is no part of the model
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(AutoConfig.from_pretrained(folder))]  # nor are the modules of its class
    tracker = MemoryTracker("cpu")
    engine = Engine(checkpoint.load(folder, "cpu"))
    loaded = tracker.current()
    tracker.reset()
    engine.generate(image, job["question"], job["new_tokens"], job["new_tokens"])
    print(json.dumps([loaded, tracker.peak()]))


if __name__ == "__main__":
    try:
        _main(json.loads(sys.argv[1]))
    except Exception as error:
        sys.exit(error_summary(error))
