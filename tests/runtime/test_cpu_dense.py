"""Laws of dense weights that oneDNN lays out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.choices import assert_same, decoded, plain
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.size import decode_bytes_and_params, weight_bytes
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.config import ENV_RUNTIME, PREPACKED
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.generation import CAPTURED, GreedyGenerator
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.linear.cpu_dense import PrepackedLinear
from vlmcomp.runtime.weight_sharing import share_weights_, storage_bytes

TOKENS = 24
EVERY = ["llava-shapes", "blip2-shapes", "paligemma-shapes", "qwen2-vl-shapes"]


@pytest.fixture
def prepacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_RUNTIME, f"int8_kernel=fbgemm,dense_kernel={PREPACKED}")


def _laid(vlm: VLM) -> list[str]:
    return [name for name, module in vlm.model.named_modules() if type(module) is PrepackedLinear]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(96, 96), (640, 96), (33, 47)])
@torch.no_grad()
def test_it_multiplies_the_same_weights(inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias, dtype=compute_dtype("cpu"))
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    tokens = [torch.randn(*shape, inputs, dtype=compute_dtype("cpu")) for shape in ((1, 1), (2, 7), (1, 300))]
    wanted = [linear(x) for x in tokens]
    holder = nn.Sequential(linear)
    dispatch.set_linear_kernel_(holder, dispatch.PREPACKED)
    linear = holder[0]
    after = linear.state_dict()
    assert type(linear) is PrepackedLinear and linear.weight.is_meta
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    # both sum in float32, in another order, and round the sums to the dtype
    near = 4 * torch.finfo(compute_dtype("cpu")).eps + inputs**0.5 * torch.finfo(torch.float32).eps
    for x, y in zip(tokens, wanted):
        assert linear(x).shape == y.shape and (linear(x) - y).norm() <= near * y.norm()


@pytest.mark.parametrize("model", EVERY)
def test_a_model_decodes_saves_and_weighs_what_it_did(
    tmp_path: Path, samples: list, model: str, prepacked: None
) -> None:
    vlm, (image, question, _) = compress(Recipe(model), device="cpu"), samples[0]
    before = weight_bytes(vlm.model), decode_bytes_and_params(vlm.model), sum(storage_bytes(vlm.model).values())
    weights = {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}
    inputs = vlm.encode([image], [question])
    wanted = plain(vlm, inputs, TOKENS, TOKENS)
    engine = Engine(vlm)
    answer = engine.generate(image, question).text
    assert engine.summary.kernel == dispatch.KERNEL_DESCRIPTIONS[PREPACKED] and len(_laid(vlm)) > 20
    decoder = GreedyGenerator(vlm.model, CAPTURED, capture_after_tokens=0)
    assert_same(vlm, inputs, decoded(decoder, inputs, TOKENS, TOKENS), wanted)
    assert decoder.mode == CAPTURED and decoder.capture_seconds > 0
    assert (
        weight_bytes(vlm.model),
        decode_bytes_and_params(vlm.model),
        sum(storage_bytes(vlm.model).values()),
    ) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in vlm.model.state_dict().items())
    checkpoint.save(vlm, tmp_path / "saved")
    assert Engine(checkpoint.load(tmp_path / "saved", "cpu")).generate(image, question).text == answer


def test_tied_weights_stay_where_the_embeddings_read_them(samples: list, prepacked: None) -> None:
    vlm = compress(Recipe("paligemma-shapes"), device="cpu")
    Engine(vlm).generate(*samples[0][:2], 1)
    assert vlm.model.get_output_embeddings().weight is vlm.model.get_input_embeddings().weight
    assert _laid(vlm) and not vlm.model.get_output_embeddings().weight.is_meta


def test_variants_lie_in_the_same_memory(samples: list, prepacked: None, few: None) -> None:
    dense, other = (compress(Recipe.parse(f"llava-shapes/{name}"), device="cpu") for name in ("fp16", "glu20+fp16"))
    image, question, _ = samples[0]
    answers = [Engine(vlm).generate(image, question).text for vlm in (dense, other)]
    apart = len(storage_bytes(dense.model) | storage_bytes(other.model))
    share_weights_(other, [dense])
    assert [Engine(vlm).generate(image, question).text for vlm in (dense, other)] == answers
    theirs = dict(dense.model.named_modules())
    borrowed = {
        name
        for name, m in other.model.named_modules()
        if name in _laid(other) and m.packed_weight is theirs[name].packed_weight
    }
    assert any("q_proj" in name for name in borrowed) and not any("down_proj" in name for name in borrowed)
    together = len(storage_bytes(dense.model) | storage_bytes(other.model))
    assert apart - together >= len(borrowed)
    before = storage_bytes(other.model)
    share_weights_(other, [dense])  # nothing is left to lend
    assert storage_bytes(other.model) == before


@pytest.mark.parametrize("precision", ["int8", "int8-torchao", "int4"])
def test_beside_packed_weights_only_lm_head_is_laid_out(samples: list, precision: str, prepacked: None) -> None:
    vlm = compress(Recipe("llava-shapes", (), precision), device="cpu")
    Engine(vlm).generate(*samples[0][:2], 2)
    assert _laid(vlm) == ["lm_head"]
