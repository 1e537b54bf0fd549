"""Laws of the kernels that multiply INT8 weights on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from vlmcomp import files
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.quantization.bitsandbytes import to_bnb_int8
from vlmcomp.compression.size import decode_bytes_and_params, weight_bytes
from vlmcomp.models import architecture
from vlmcomp.recipe import Recipe
from vlmcomp.runtime import autotune
from vlmcomp.runtime.config import GENERATE, LIBRARY, RuntimeConfig
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.linear import dispatch
from vlmcomp.runtime.linear.int8 import BnbInt8Linear
from vlmcomp.runtime.weight_sharing import storage_bytes

INT8 = Recipe("llava-shapes", (), "int8")
OURS = [
    dispatch.FBGEMM,
    pytest.param(
        dispatch.ONEDNN, marks=pytest.mark.skipif(not dispatch.has_vnni(), reason="sums overflow without VNNI")
    ),
]


def _small(dense: nn.Linear) -> nn.Module:
    small = to_bnb_int8(dense)
    small.bias = dense.bias
    return small


def _pair(kernel: str, bias: bool = True) -> tuple[nn.Linear, nn.Module, nn.Module]:
    """A dense Linear, and its INT8 forms: bitsandbytes' and ours."""
    torch.manual_seed(0)
    dense = nn.Linear(512, 320, bias=bias)
    theirs, ours = (nn.Sequential(_small(dense)).to("cpu").eval() for _ in range(2))
    dispatch.set_linear_kernel_(ours, kernel)
    return dense, theirs, ours


def _error(y: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((y - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kernel", OURS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outlier", [0.0, 40.0])
@torch.no_grad()
def test_it_multiplies_the_same_weights(kernel: str, bias: bool, outlier: float) -> None:
    dense, theirs, ours = _pair(kernel, bias)
    x = torch.randn(2, 5, 512)
    x[:, 1, [3, 200]] += outlier  # one token has what LLM.int8() calls outlier features
    wanted = dense(x)
    assert _error(theirs(x), wanted) < 0.02
    assert _error(ours(x), wanted) < 0.03
    assert _error(ours(x)[:, 2], wanted[:, 2]) < 0.03  # nor do others suffer from it
    assert not outlier or _error(ours(x)[:, 1], wanted[:, 1]) < 0.01  # and it has more bits than they
    exact = nn.functional.linear(x, ours[0].qweight() * ours[0].weight.SCB[:, None] / 127, dense.bias)
    assert all(_error(ours(x[:, [at]]), exact[:, [at]]) < 0.003 for at in range(5))  # decoding rounds weights alone
    assert type(ours[0]) is BnbInt8Linear and ours(x).shape == wanted.shape
    assert ours(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kernel", OURS)
@torch.no_grad()
def test_a_token_does_not_hang_on_its_batch(kernel: str) -> None:
    _, _, ours = _pair(kernel)
    sizes = torch.tensor([0.01, 1.0, 30.0, 1.0, 2.0, 0.0])
    for x in (torch.randn(6, 1, 512) * sizes[:, None, None], torch.randn(6, 4, 512) * sizes[:, None, None]):
        assert torch.allclose(ours(x), torch.cat([ours(row[None]) for row in x]), rtol=1e-5, atol=1e-6)
        assert torch.allclose(ours(x)[5], ours[0].bias)


@pytest.mark.parametrize("kernel", OURS)
def test_the_weights_stay_those_of_bitsandbytes(kernel: str) -> None:
    _, theirs, ours = _pair(kernel)
    one, other = theirs.state_dict(), ours.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class _Attention(nn.Module):
    """Query, key and value of one input, of two widths, one with no bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(256, 256), nn.Linear(256, 64), nn.Linear(256, 64, bias=False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.q_proj(x), self.k_proj(x), self.v_proj(x)]


@pytest.mark.parametrize("kernel", OURS)
@torch.no_grad()
def test_siblings_are_multiplied_as_one_and_answer_as_if_alone(kernel: str) -> None:
    together, alone = _Attention(), []
    for name, linear in list(together.named_children()):
        alone.append(nn.Sequential(_small(linear)).to("cpu").eval())
        dispatch.set_linear_kernel_(alone[-1], kernel)
        together.set_submodule(name, _small(linear).to("cpu").eval())
    before = {name: tensor.clone() for name, tensor in together.state_dict().items()}
    dispatch.set_linear_kernel_(together, kernel)
    assert len({id(linear.projection) for linear in together.children()}) == 1
    after = together.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    projection, made = together.q_proj.projection, []
    matmul = projection.matmul
    projection.matmul = lambda x: made.append(1) or matmul(x)
    one, other = torch.randn(1, 5, 256), torch.randn(1, 1, 256)
    for x in (one, other):
        assert all(torch.allclose(y, linear(x), atol=1e-5) for y, linear in zip(together(x), alone))
    assert len(made) == 2 and projection._output is None  # nothing is stored after all have read
    together.q_proj(one)  # readers that come in another order, or not at all, get what is theirs
    assert torch.allclose(together.v_proj(other), alone[2](other), atol=1e-5)
    assert torch.allclose(together.v_proj(one), alone[2](one), atol=1e-5)


def test_a_settled_model_saves_and_weighs_what_it_did(tmp_path: Path, samples: list) -> None:
    vlm, (image, question, _) = compress(INT8, device="cpu"), samples[0]
    before = weight_bytes(vlm.model), decode_bytes_and_params(vlm.model), sum(storage_bytes(vlm.model).values())
    engine = Engine(vlm)
    answer = engine.generate(image, question).text
    assert engine.summary.kernel == dispatch.KERNEL_DESCRIPTIONS[dispatch.FBGEMM]
    linears = [linear for _, linear in architecture.decoder_linears(vlm.model)]
    assert all(type(linear) is BnbInt8Linear for linear in linears)
    weights, read, memory = (
        weight_bytes(vlm.model),
        decode_bytes_and_params(vlm.model),
        sum(storage_bytes(vlm.model).values()),
    )
    sums = sum(4 * 2 * linear.out_features for linear in linears)  # scales and sums of rows: what the kernel adds
    assert (weights, read) == before[:2] and 0 <= memory - before[2] <= sums
    checkpoint.save(vlm, tmp_path / "saved")
    assert Engine(checkpoint.load(tmp_path / "saved", "cpu")).generate(image, question).text == answer


@pytest.mark.parametrize("kernel", OURS)
def test_its_answers_are_those_of_bitsandbytes(kernel: str, samples: list) -> None:
    images, questions, _ = map(list, zip(*samples))
    ours = Engine(compress(INT8, device="cpu"), RuntimeConfig(int8_kernel=kernel))
    theirs = Engine(compress(INT8, device="cpu"), RuntimeConfig(linear_kernels=LIBRARY))
    assert ours.generate_batch(images, questions) == theirs.generate_batch(images, questions)
    assert ours.summary.kernel == dispatch.KERNEL_DESCRIPTIONS[kernel] and theirs.summary.kernel == ""
    plain = Engine(ours.vlm, RuntimeConfig(decode=GENERATE))  # the kernel stays the one that was installed
    assert plain.summary.kernel == dispatch.KERNEL_DESCRIPTIONS[kernel] and plain.summary.decode == GENERATE
    assert plain.generate(images[0], questions[0]).text == ours.generate(images[0], questions[0]).text


def _times(prompt: list[float], token: list[float]) -> autotune.Times:
    return {"prompt_ms": prompt, "token_ms": token}


def test_the_fastest_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path))
    whole, place = autotune.time_kernels, tmp_path / autotune.FILE
    monkeypatch.setattr(
        autotune, "time_kernels", lambda names, make, device: whole(names, make, device, width=128, rounds=2)
    )
    known = autotune.cached_timings.__wrapped__
    ways, able = (dispatch.PYTORCH, dispatch.PREPACKED), dispatch.supported_int8_kernels()
    dense, int8 = known("dense", ways, dispatch._make_dense_linear), known("int8", able, dispatch._make_int8_linear)
    assert dense.keys() == set(ways) and int8.keys() == set(able)
    assert (dispatch.ONEDNN in able) == dispatch.has_vnni()
    stored_timings = json.loads(place.read_text())
    assert stored_timings["dense"].keys() == dense.keys() and stored_timings["int8"].keys() == int8.keys()
    for damaged in (
        stored_timings | {"here": {}},
        stored_timings | {"int8": {dispatch.FBGEMM: [1.0]}},
        stored_timings | {"int8": {}},
        {},
        [],
    ):
        place.write_text(json.dumps(damaged))  # of another machine, or broken
        assert known("int8", able, dispatch._make_int8_linear).keys() == set(able)
    only = {dispatch.FBGEMM: _times([1.0], [1.0])}
    place.write_text(json.dumps(stored_timings | {"int8": only}))
    assert known("int8", able, dispatch._make_int8_linear) == only  # nothing is measured again
    assert (
        known("int8", (dispatch.ONEDNN,), dispatch._make_int8_linear) != only
    )  # a kernel that is not to be had is not taken


def test_a_race_that_lacks_memory_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path))
    known, ways = autotune.cached_timings.__wrapped__, (dispatch.PYTORCH, dispatch.PREPACKED)
    for error, measured in ((RuntimeError("CUDA out of memory"), set()), (OSError("no compiler"), {dispatch.PYTORCH})):

        def make(kernel: str, dense: nn.Linear, error: Exception = error) -> nn.Module:
            if kernel == dispatch.PREPACKED:
                raise error
            return nn.Identity()

        assert known("dense", ways, make).keys() == measured
        assert (tmp_path / autotune.FILE).exists() == bool(measured)


def test_a_prompt_and_its_answer_decide_by_what_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {
        dispatch.BITSANDBYTES: _times([9.0], [0.5, 0.5, 9.0]),
        dispatch.FBGEMM: _times([20.0], [0.9]),
        dispatch.ONEDNN: _times([9.0], [0.1, 3.0, 3.0]),  # fast once, and slow as a rule
    }
    monkeypatch.setattr(autotune, "cached_timings", lambda *_: times)
    assert dispatch.best_int8_kernel() == dispatch.BITSANDBYTES
    assert (
        dispatch.best_int8_kernel("int8-torchao") == dispatch.FBGEMM
    )  # bitsandbytes does not multiply torchao's weights
    one = dispatch.ONEDNN
    assert dispatch.best_int8_kernel(requested=one) == dispatch.best_int8_kernel("int8-torchao", one) == one
    monkeypatch.setattr(autotune, "cached_timings", lambda *_: {})
    assert dispatch.best_int8_kernel("int8-torchao", dispatch.BITSANDBYTES) == ""  # left to torchao
