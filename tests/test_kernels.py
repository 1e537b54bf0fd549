"""Laws of the kernels that multiply INT8 weights on a CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from vlmcomp import anatomy, checkpoint, kernels, machine
from vlmcomp.ask import answer_batch, ask
from vlmcomp.build import build
from vlmcomp.measure.size import read_per_token, weight_bytes
from vlmcomp.memory import pieces
from vlmcomp.quantize import int8
from vlmcomp.recipe import Recipe

INT8 = Recipe("llava-shapes", (), "int8")


def _pair(bias: bool = True) -> tuple[nn.Linear, nn.Module, nn.Module]:
    """A dense Linear, and its INT8 forms with each kernel."""
    torch.manual_seed(0)
    dense, forms = nn.Linear(512, 320, bias=bias), []
    for kernel in kernels.TITLES:
        holder = nn.Sequential(int8(dense))
        holder[0].bias = dense.bias
        forms.append(holder.to("cpu").eval())
        kernels.use(holder, kernel)
    return dense, *forms


def _error(y: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((y - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outlier", [0.0, 40.0])
@torch.no_grad()
def test_it_multiplies_the_same_weights(bias: bool, outlier: float) -> None:
    dense, theirs, ours = _pair(bias)
    x = torch.randn(2, 5, 512)
    x[:, 1, [3, 200]] += outlier  # one token has what LLM.int8() calls outlier features
    wanted = dense(x)
    assert _error(theirs(x), wanted) < 0.02
    assert _error(ours(x), wanted) < 0.03
    assert _error(ours(x)[:, 2], wanted[:, 2]) < 0.03  # nor do others suffer from it
    assert not outlier or _error(ours(x)[:, 1], wanted[:, 1]) < 0.01  # and it has more bits than they
    codes, scale = ours[0].codes().float(), ours[0].scale
    exact = nn.functional.linear(x, codes * scale[:, None], dense.bias)
    assert all(_error(ours(x[:, [at]]), exact[:, [at]]) < 0.003 for at in range(5))  # decoding rounds weights alone
    assert type(ours[0]) is kernels.FbgemmLinear8bit and ours(x).shape == wanted.shape
    assert ours(x.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_a_token_does_not_hang_on_its_batch() -> None:
    _, _, ours = _pair()
    sizes = torch.tensor([0.01, 1.0, 30.0, 1.0, 2.0, 0.0])
    for x in (torch.randn(6, 1, 512) * sizes[:, None, None], torch.randn(6, 4, 512) * sizes[:, None, None]):
        assert torch.allclose(ours(x), torch.cat([ours(row[None]) for row in x]), rtol=1e-5, atol=1e-6)
        assert torch.allclose(ours(x)[5], ours[0].bias)


def test_the_weights_stay_those_of_bitsandbytes() -> None:
    _, theirs, ours = _pair()
    one, other = theirs.state_dict(), ours.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_settled_model_saves_and_weighs_what_it_did(tmp_path: Path, samples: list) -> None:
    vlm, (image, question, _) = build(INT8, device="cpu"), samples[0]
    before = weight_bytes(vlm.model), read_per_token(vlm.model), sum(pieces(vlm.model).values())
    answer = ask(vlm, image, question).text
    assert vlm.settled and vlm.kernel == kernels.TITLES[kernels.FBGEMM]
    linears = [linear for _, linear in anatomy.decoder_linears(vlm.model)]
    assert all(type(linear) is kernels.FbgemmLinear8bit for linear in linears)
    weights, read, held = weight_bytes(vlm.model), read_per_token(vlm.model), sum(pieces(vlm.model).values())
    sums = sum(4 * 2 * linear.out_features for linear in linears)  # scales and sums of rows: what the kernel adds
    assert (weights, read) == before[:2] and 0 <= held - before[2] <= sums
    checkpoint.save(vlm, tmp_path / "saved")
    assert ask(checkpoint.load(tmp_path / "saved", "cpu"), image, question).text == answer


def test_its_answers_are_those_of_bitsandbytes(built: Callable, samples: list) -> None:
    images, questions, _ = map(list, zip(*samples))
    theirs = build(INT8, device="cpu")
    theirs.settled = True
    assert answer_batch(built(str(INT8)), images, questions) == answer_batch(theirs, images, questions)


def test_the_choice_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernels.ASKED)
    monkeypatch.setenv(machine.PLACE, str(tmp_path))
    choose = kernels.chosen.__wrapped__
    first = choose()
    kept = json.loads((tmp_path / "int8-kernel.json").read_text())
    assert kept["kernel"] == first and set(kept["ms"]) == set(kernels.TITLES)
    other = next(name for name in kernels.TITLES if name != first)
    (tmp_path / "int8-kernel.json").write_text(json.dumps(kept | {"kernel": other}))
    assert choose() == other  # nothing is measured again
    (tmp_path / "int8-kernel.json").write_text(json.dumps(kept | {"here": {}, "kernel": "none"}))
    assert choose() in kernels.TITLES  # another machine's, or a damaged one
    monkeypatch.setenv(kernels.ASKED, "fast")
    with pytest.raises(ValueError, match="use bitsandbytes or fbgemm"):
        choose()
