"""The fresh process in which a checkpoint's memory is measured: ``python -m vlmcomp.evaluation.memory_worker JOB``.

A process that has built a model keeps what building left behind, so its resident set says nothing about answering.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

from vlmcomp.compression import checkpoint
from vlmcomp.evaluation.memory_tracker import MemoryTracker
from vlmcomp.feedback import error_summary
from vlmcomp.runtime.engine import Engine

REPO = Path(__file__).resolve().parents[2]


def measure_memory(folder: Path, image: Image.Image, question: str, new_tokens: int) -> tuple[int, int]:
    """Bytes of resident memory that a checkpoint takes on the CPU: loaded, and at the peak of one answer.

    Args:
        folder: of the checkpoint; the image is written beside it.
        image: of the question.
        question: is answered once.
        new_tokens: of the answer, exactly.

    Raises:
        ValueError: the process failed; one sentence.
    """
    file = folder.with_name(f"{folder.name}.png")
    image.save(file)
    job = json.dumps({"folder": str(folder), "image": str(file), "question": question, "new_tokens": new_tokens})
    done = subprocess.run(
        [sys.executable, "-m", "vlmcomp.evaluation.memory_worker", job],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))},
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"it ended with code {done.returncode}"
        raise ValueError(f"the memory of the saved checkpoint could not be measured: {reason}")
    loaded, peak = json.loads(done.stdout.splitlines()[-1])
    return loaded, peak


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
