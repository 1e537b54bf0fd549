"""Memory of a saved checkpoint, in a fresh process: ``memory_worker``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from vlmcomp.feedback import package_environment


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
        env=package_environment(),
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"it ended with code {done.returncode}"
        raise ValueError(f"the memory of the saved checkpoint could not be measured: {reason}")
    loaded, peak = json.loads(done.stdout.splitlines()[-1])
    return loaded, peak
