"""Comparison of generated tokens with those of ``generate``, and of saved weights."""

from __future__ import annotations

import torch

from vlmcomp.compression.quantization import torchao as torchao_tensors
from vlmcomp.models.vlm import VLM
from vlmcomp.runtime.generation import GreedyGenerator

_ROUNDINGS = 4  # of the dtype's epsilon: what sums in another order, through all layers, may move a logit


def plain(vlm: VLM, inputs: dict[str, torch.Tensor], num_tokens: int, least: int = 0) -> list[int]:
    """The library's own greedy answer."""
    settings = {"min_new_tokens": least} if least else {}
    with torch.inference_mode():
        ids = vlm.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=num_tokens, **settings)
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def decoded(generator: GreedyGenerator, inputs: dict[str, torch.Tensor], num_tokens: int, least: int = 0) -> list[int]:
    """The answer of ``generator``."""
    tokens: list[int] = []
    generator.generate(inputs, num_tokens, least, lambda token, at: tokens.append(token))
    return tokens


def stored(module: torch.nn.Module) -> dict[str, list[torch.Tensor]]:
    """The state dict of ``module``, with packed weights as their inner tensors."""
    return {
        name: [p.clone() for p in torchao_tensors.inner_tensors(value) or [value]]
        for name, value in module.state_dict().items()
    }


def assert_equal(found: dict[str, list[torch.Tensor]], wanted: dict[str, list[torch.Tensor]]) -> None:
    """The same names, and the same tensors to the bit."""
    assert found.keys() == wanted.keys()
    assert all(all(map(torch.equal, found[name], wanted[name])) for name in wanted)


def assert_same(
    vlm: VLM, inputs: dict[str, torch.Tensor], tokens: list[int], wanted: list[int], roundings: int = _ROUNDINGS
) -> None:
    """``tokens`` are those that ``generate`` gave, ``wanted``, or they differ first where two tokens tie.

    With 16-bit logits whole groups of tokens tie, and the order of a sum decides.
    """
    if tokens == wanted:
        return
    # a shorter answer differs at its end token
    same = next(i for i, (a, b) in enumerate(zip(tokens, wanted)) if a != b)
    longer = {name: _longer(name, value, wanted[:same]) for name, value in inputs.items()}
    with torch.inference_mode():
        logits = vlm.model(**longer).logits[0, -1].float()
    gap, most = (logits[wanted[same]] - logits[tokens[same]]).abs(), logits.abs().max()
    tie = roundings * torch.finfo(vlm.dtype).eps * most
    assert gap <= tie, f"token {same}: {tokens[same]} for {wanted[same]}, {gap:.4f} apart, a tie is {tie:.4f}"


def _longer(name: str, value: torch.Tensor, more: list[int]) -> torch.Tensor:
    if name == "input_ids":
        return torch.cat([value, value.new_tensor([more])], dim=1)
    if name == "attention_mask":
        return torch.cat([value, value.new_ones(1, len(more))], dim=1)
    if name in ("token_type_ids", "mm_token_type_ids"):
        return torch.cat([value, value.new_zeros(1, len(more))], dim=1)
    if name == "position_ids":
        return torch.cat([value, value[..., -1:] + torch.arange(1, len(more) + 1, device=value.device)], dim=-1)
    return value
