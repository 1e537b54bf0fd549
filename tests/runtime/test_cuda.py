"""Laws of decoding on a GPU, where there is one: every way gives the tokens of ``generate``, packed or pruned."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from tests.support.choices import assert_equal, assert_same, decoded, plain, stored
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.quantization.bitsandbytes import to_bnb_int8
from vlmcomp.experiments.decode_speed import BUNDLED_MODELS
from vlmcomp.models import registry
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import PRECISIONS, Recipe
from vlmcomp.runtime import weight_sharing
from vlmcomp.runtime.config import ENV_RUNTIME, TRITON_DENSE
from vlmcomp.runtime.engine import Engine
from vlmcomp.runtime.generation import CAPTURED, COMPILED, GENERATE, STATIC, GreedyGenerator
from vlmcomp.runtime.linear import dispatch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
TOKENS, ROUNDINGS = 12, 8  # compiled code rounds sums that PyTorch's modules round to 16 bits in between


@pytest.fixture
def on_gpu(few: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], VLM]]:
    monkeypatch.setenv(ENV_RUNTIME, f"dense_kernel={TRITON_DENSE}")
    yield lambda text: compress(Recipe.parse(text), device="cuda")
    torch.cuda.empty_cache()


@pytest.mark.parametrize("way", [STATIC, CAPTURED, COMPILED])
@pytest.mark.parametrize(("model", "precision"), itertools.product(BUNDLED_MODELS, PRECISIONS))
def test_every_way_gives_the_tokens_of_generate(
    on_gpu: Callable, samples: list, model: str, precision: str, way: str
) -> None:
    vlm = on_gpu(f"{model}/{precision}")
    Engine(vlm)  # installs its kernels
    decoder = GreedyGenerator(vlm.model, way, capture_after_tokens=0)
    for image, question, _ in samples[:2]:
        inputs = vlm.encode([image], [question])
        wanted = plain(vlm, inputs, TOKENS, TOKENS)
        assert_same(vlm, inputs, decoded(decoder, inputs, TOKENS, TOKENS), wanted, ROUNDINGS)
    assert decoder.mode == way  # nothing was refused


@pytest.mark.parametrize("precision", PRECISIONS)
def test_models_that_need_its_range_decode_in_bfloat16(
    on_gpu: Callable, samples: list, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setitem(
        registry.MODELS,
        registry.DEFAULT_MODEL,
        replace(registry.get_model_spec(registry.DEFAULT_MODEL), needs_bfloat16=True),
    )
    vlm = on_gpu(f"{registry.DEFAULT_MODEL}/{precision}")
    Engine(vlm)  # installs its kernels
    decoder, inputs = (
        GreedyGenerator(vlm.model, COMPILED, capture_after_tokens=0),
        vlm.encode(*([part] for part in samples[0][:2])),
    )
    assert_same(vlm, inputs, decoded(decoder, inputs, TOKENS), plain(vlm, inputs, TOKENS), ROUNDINGS)
    assert decoder.mode == COMPILED and vlm.dtype == torch.bfloat16


@pytest.mark.parametrize("recipe", ["glu30+int8", "glu30+int4-torchao", "heads25+glu30+int8-torchao", "vis50+int4"])
def test_what_is_pruned_decodes_alike(on_gpu: Callable, samples: list, recipe: str) -> None:
    vlm = on_gpu(f"llava-shapes/{recipe}")
    Engine(vlm)  # installs its kernels
    decoder, inputs = (
        GreedyGenerator(vlm.model, COMPILED, capture_after_tokens=0),
        vlm.encode(*([part] for part in samples[0][:2])),
    )
    assert_same(vlm, inputs, decoded(decoder, inputs, TOKENS), plain(vlm, inputs, TOKENS), ROUNDINGS)
    assert decoder.mode == COMPILED


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p not in ("int4-torchao", "w4a16")])
def test_the_kernels_multiply_as_the_libraries_do(on_gpu: Callable, samples: list, precision: str) -> None:
    library_vlm = on_gpu(f"llava-shapes/{precision}")
    ours = weight_sharing.clone_sharing_weights(library_vlm)
    assert (
        Engine(ours).summary.kernel
        == dispatch.KERNEL_DESCRIPTIONS[TRITON_DENSE if precision == "fp16" else dispatch.TRITON]
    )
    inputs = library_vlm.encode(*([part] for part in samples[0][:2]))
    with torch.inference_mode():
        for logits in (_of_prompt, _of_next):
            wanted, found = (logits(vlm, inputs) for vlm in (library_vlm, ours))
            assert (found - wanted).norm() <= 0.05 * wanted.norm()  # LLM.int8() rounds activations too


def _of_prompt(vlm: VLM, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of all tokens."""
    return vlm.model(**inputs).logits.float()


def _of_next(vlm: VLM, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Those of the token that follows, with the prompt in a cache."""
    logits_of_calls: list[torch.Tensor] = []
    hook = vlm.model.get_output_embeddings().register_forward_hook(
        lambda module, args, y: logits_of_calls.append(y[:, -1])
    )
    plain(vlm, inputs, 2, 2)
    hook.remove()
    return logits_of_calls[-1].float()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_settled_model_saves_what_was_built(on_gpu: Callable, precision: str) -> None:
    vlm = on_gpu(f"llava-shapes/{precision}")
    before = stored(vlm.model)
    Engine(vlm)  # installs its kernels
    assert_equal(stored(vlm.model), before)


def test_int8_is_packed_on_the_gpu_as_from_the_cpu() -> None:
    linear = torch.nn.Linear(192, 64, bias=False, dtype=torch.float16)
    here, there = (to_bnb_int8(linear.to(device)).to("cuda").weight for device in ("cuda", "cpu"))
    assert torch.equal(here.data, there.data) and torch.equal(here.SCB, there.SCB)


def test_an_unsettled_twin_generates_the_same(on_gpu: Callable, samples: list) -> None:
    vlm = on_gpu("llava-shapes/int8")
    inputs = vlm.encode(*([part] for part in samples[0][:2]))
    other = weight_sharing.clone_sharing_weights(vlm)
    assert decoded(GreedyGenerator(other.model, GENERATE), inputs, TOKENS) == plain(vlm, inputs, TOKENS)
