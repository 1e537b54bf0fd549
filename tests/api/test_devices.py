"""A device that is unknown or absent is one sentence wherever one is given, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmcomp
from vlmcomp.cli.main import main
from vlmcomp.compression import checkpoint, pipeline
from vlmcomp.recipe import Recipe

NAME = "llava-shapes/fp16"
UNKNOWN = ("tpu", "mps", "meta", "gpu", "CPU", "cpu:3", "cuda:", "cuda:x", "cuda:-1", "cuda:9999999999", " cpu")
CALLS: dict[str, Callable[[Any], object]] = {
    "compress": lambda device: vlmcomp.compress(NAME, device=device),
    "load": lambda device: vlmcomp.load("nowhere", device=device),
    "benchmark": lambda device: vlmcomp.benchmark(NAME, device=device),
    "pipeline": lambda device: pipeline.compress(Recipe.parse(NAME), device=device),
    "checkpoint": lambda device: checkpoint.load(Path("nowhere"), device),
}
COMMANDS = (
    ["compress", NAME, "--out", "new"],
    ["ask", NAME, "--image", "assets/examples/scene-6.png", "--question", "What is it?"],
    ["bench", NAME, "--out", "new"],
)


@pytest.mark.parametrize("call", CALLS)
def test_unknown_devices_are_refused(call: str) -> None:
    for device in (*UNKNOWN, 5, ["cpu"], torch.device("meta")):
        with pytest.raises(ValueError, match="is not a device: use cpu, cuda or cuda:N"):
            CALLS[call](device)


@pytest.mark.parametrize("call", CALLS)
def test_absent_gpus_are_refused(call: str) -> None:
    count = torch.cuda.device_count()
    for device in (f"cuda:{count}", "cuda:77", torch.device("cuda", count), *([] if count else ["cuda"])):
        with pytest.raises(ValueError, match=r"there is no CUDA GPU \d+ here: use the device cpu"):
            CALLS[call](device)


@pytest.mark.parametrize("command", COMMANDS, ids=[words[0] for words in COMMANDS])
@pytest.mark.parametrize("device", ["tpu", "cuda:77", "cpu:3"])
def test_the_command_line_prints_the_sentence(device: str, command: list[str], tmp_path: Path, capsys) -> None:
    words = [str(tmp_path / word) if word == "new" else word for word in command]
    assert main([*words, "--device", device]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1 and printed[0].startswith("vlmcomp: ") and "use " in printed[0]


def test_a_device_object_is_its_name() -> None:
    assert vlmcomp.compress(NAME, device=torch.device("cpu")).device == torch.device("cpu")
