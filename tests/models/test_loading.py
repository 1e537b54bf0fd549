"""Loading is frugal: weights stay in their files until their layer is worked on, and leave it packed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from tests.support.families import write
from vlmcomp.models import architecture, random_init, registry
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.models.loading import SequentialLoader, load
from vlmcomp.training.llava import LLAVA
from vlmcomp.training.model_spec import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SLACK = 60e6  # bytes: what libraries and freed blocks hold, a quarter of the dense model


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of 32 layers with random weights: 0.12 GB of float16 files, 0.25 GB in float32."""
    model, processor = LLAVA.build(train_tokenizer(LLAVA, ("a b c",)))
    text = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 32, "num_attention_heads": 8}
    text |= {"num_key_value_heads": 8, "head_dim": 64}
    for name, value in text.items():
        setattr(model.config.text_config, name, value)
    folder = tmp_path_factory.mktemp("wide")
    type(model)(AutoConfig.for_model(**model.config.to_dict())).half().save_pretrained(folder, max_shard_size="50MB")
    processor.save_pretrained(folder)
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell own memory from mapped files")
@pytest.mark.parametrize("shape", ["int8", "int4", "glu25+int4"])
def test_the_peak_is_one_layer_above_the_result(shape: str, wide: Path) -> None:
    """And, when pruning, the sums of one layer: never the dense model."""
    command = [sys.executable, ROOT / "tests" / "support" / "peak_memory.py", f"llava-1.5-7b/{shape}", wide]
    told = {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["loaded"] < 0.1 * facts["dense"]
    bound = facts["result"] + facts["layer"] + ("glu" in shape) * facts["moments"] + SLACK
    assert facts["peak"] < bound < 0.6 * facts["dense"], facts


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_arrives_is_the_file_rounded_to_float16(dtype: torch.dtype, tmp_path: Path) -> None:
    model, processor = LLAVA.build(train_tokenizer(LLAVA, ("a b c",)))
    model.to(dtype).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    mapped = load(registry.get_model_spec("llava-1.5-7b"), str(tmp_path), lambda text, share: None).model
    assert {p.dtype for p in mapped.parameters()} == {dtype}
    loader = SequentialLoader(mapped, "cpu")
    loader.load_non_decoder()
    inside = dict(architecture.decoder_linears(mapped))
    assert all(inside[name].weight.dtype == dtype for name in inside)
    for layer in architecture.decoder_layers(mapped):
        loader.load_layer(layer)
    saved = dict(model.named_parameters())
    for name, parameter in mapped.named_parameters():
        stored = saved[name] if loader.dtype == torch.bfloat16 else saved[name].half()
        assert torch.equal(parameter, stored.to(loader.dtype)), name


@pytest.mark.parametrize("able", [True, False])
def test_a_model_that_needs_its_range_computes_in_bfloat16(able: bool, monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    real = {entry.name: compute_dtype("cuda", entry) for entry in registry.MODELS.values() if not entry.bundled}
    ranged = {name for name, dtype in real.items() if dtype == torch.bfloat16}
    assert ranged == ({name for name in real if not name.startswith(("llava", "blip2"))} if able else set())
    entry = registry.get_model_spec("qwen2-vl-2b")
    assert compute_dtype("cpu", entry) == compute_dtype("cpu")
    SequentialLoader(random_init.random_weights_model(entry, 1).model, "cuda", entry)
    assert bool(caplog.messages) != able


def test_every_linear_of_a_layer_is_attention_or_mlp(built) -> None:
    """``quantize`` goes by layers, size and config by parts: they must mean the same modules."""
    model = built("llava-shapes/fp16").model
    named = {id(linear) for _, linear in architecture.decoder_linears(model)}
    blocks = [layer.block for layer in architecture.decoder_layers(model)]
    assert named == {id(m) for block in blocks for m in block.modules() if isinstance(m, torch.nn.Linear)}


@pytest.mark.parametrize(
    "carried, wanted",
    [
        ({"min_pixels": 3136, "max_pixels": 12845056}, (200704, 1003520)),  # as on the Hub: the registry's bounds
        ({"min_pixels": 3136, "max_pixels": 401408}, (200704, 401408)),
        ({"min_pixels": 50176, "max_pixels": 50176}, (50176, 50176)),  # a model trained on small images keeps them
    ],
)
def test_images_are_scaled_within_the_bounds_of_registry_and_checkpoint(
    carried: dict[str, int], wanted: tuple[int, int], tmp_path: Path
) -> None:
    entry = registry.get_model_spec("qwen2-vl-2b")
    folder = write(entry.name, tmp_path)
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    del settings["image_processor"]["size"]
    settings["image_processor"] |= carried
    file.write_text(json.dumps(settings))
    size = load(entry, str(folder), lambda text, share: None).processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == wanted
