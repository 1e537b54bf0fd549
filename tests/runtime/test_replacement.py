"""Laws of Linears that take the place of others: hooks, training mode, ties and saved weights stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.support.choices import assert_equal, stored
from vlmcomp.compression.pipeline import compress
from vlmcomp.experiments.decode_speed import BFloat16Linear, in_bfloat16
from vlmcomp.models.dtypes import compute_dtype
from vlmcomp.recipe import PRECISIONS, Recipe
from vlmcomp.runtime.config import DENSE_KERNELS, PREPACKED, RuntimeConfig
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.linear.cpu_dense import PrepackedLinear
from vlmcomp.runtime.linear.replacement import ReplacementLinear, replace_modules_


class _Plain(ReplacementLinear):
    pass


class _Block(nn.Module):
    """A Linear that the model contains twice, one that shares its weight, and another one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.tied = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again = self.one
        self.tied.weight = self.one.weight
        self.other = nn.Linear(8, 8)


def test_it_takes_the_place_wherever_the_model_contains_it() -> None:
    block = _Block()
    before, other = stored(block), block.other
    new = _Plain.from_linear(block.one)
    replace_modules_(block, [(block.one, new)])
    assert block.one is block.again is new and block.other is other
    assert block.tied.weight is new.weight
    assert_equal(stored(block), before)


def test_hooks_and_training_mode_stay() -> None:
    block, calls = _Block(), []
    handle = block.one.register_forward_hook(lambda module, args, output: calls.append(type(module)))
    block.one.register_forward_pre_hook(lambda module, args: calls.append("pre"))
    block.one.eval()
    replace_modules_(block, [(block.one, _Plain.from_linear(block.one))])
    assert not block.one.training and block.other.training
    block.one(torch.zeros(1, 8))
    assert calls == ["pre", _Plain]
    handle.remove()  # a handle from before still removes its hook
    block.one(torch.zeros(1, 8))
    assert calls == ["pre", _Plain, "pre"]


def test_a_linear_that_cannot_be_packed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(weight: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no oneDNN")

    monkeypatch.setattr("vlmcomp.runtime.linear.cpu_dense.onednn_pack", refuse)
    linear = nn.Linear(8, 8, dtype=compute_dtype("cpu"))
    holder = nn.Sequential(linear)
    with pytest.raises(RuntimeError, match="no oneDNN"):
        dispatch.set_linear_kernel_(holder, PREPACKED)
    assert holder[0] is linear and not linear.weight.is_meta


@pytest.mark.parametrize("dense_kernel", DENSE_KERNELS[:2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_optimized_model_saves_what_was_built(precision: str, dense_kernel: str) -> None:
    vlm = compress(Recipe("llava-shapes", (), precision), device="cpu")
    before = stored(vlm.model)
    Engine(vlm, RuntimeConfig(int8_kernel=dispatch.FBGEMM, dense_kernel=dense_kernel))
    assert_equal(stored(vlm.model), before)
    assert (type(vlm.model.get_output_embeddings()) is PrepackedLinear) == (dense_kernel == PREPACKED)


def test_a_gpu_without_a_kernel_for_int4_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, config = torch.device("cuda"), RuntimeConfig()
    monkeypatch.setattr(dispatch, "triton_available", lambda device: False)
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    for precision, instead in (("int4-torchao", "int4 or int8-torchao"), ("w4a16", "w8a16")):
        assert not dispatch.supports_precision(precision, gpu)
        with pytest.raises(ValueError, match=rf"{precision} .*requires Triton.*use {instead}"):
            dispatch.select_kernel(precision, gpu, config)
    others = set(PRECISIONS) - {"int4-torchao", "w4a16"}
    assert all(dispatch.select_kernel(p, gpu, config) == "" for p in others)
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: object())  # mslk
    assert dispatch.select_kernel("int4-torchao", gpu, config) == ""


def test_bfloat16_linears_multiply_a_prompt_in_float32_and_keep_ties(built: Callable) -> None:
    vlm = in_bfloat16(compress(Recipe("paligemma-shapes"), device="cpu"))
    head = vlm.model.get_output_embeddings()
    assert type(head) is BFloat16Linear and head.weight is vlm.model.get_input_embeddings().weight
    x = torch.randn(1, 5, head.in_features).bfloat16()
    expected = nn.functional.linear(x.float(), head.weight.float()).bfloat16()
    assert torch.equal(head(x), expected)
    assert Engine(vlm, RuntimeConfig(linear_kernels="library")).vlm.dtype == torch.bfloat16
