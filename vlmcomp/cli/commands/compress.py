"""``compress``: a recipe's checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmcomp import hardware
from vlmcomp.cli.build import cached_or_compressed, compress_as_told
from vlmcomp.compression import checkpoint
from vlmcomp.compression.size import count_parameters, weight_bytes
from vlmcomp.compression.size_estimate import check_free_space
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting.markdown import text_table
from vlmcomp.results.schema import PruningResult

_DECODER_PARTS = ("decoder attention", "decoder MLP")
_PARTS_CHANGED_BY = {  # target of a pruning step -> parts that it changes
    "vis": _DECODER_PARTS,
    "heads": _DECODER_PARTS[:1],
    "glu": _DECODER_PARTS[1:],
    "ffn": _DECODER_PARTS[1:],
}


def run(args: argparse.Namespace) -> None:
    """Compresses a model, saves the checkpoint or caches it, and prints what changed in each part."""
    recipe = registry.parse_recipe(args.recipe)
    hardware.usable_device(args.device)  # raises before any work if that GPU does not exist
    if args.out is not None and args.source is None:
        check_free_space(recipe, Path(args.out))
    vlm = cached_or_compressed(recipe, args) if args.out is None else compress_as_told(recipe, args)
    if args.out is not None:
        checkpoint.save(vlm, Path(args.out))
    print(f"precision: {vlm.quantization_backend}, computed in {vlm.compute_dtype}")
    print(build_summary(recipe, vlm.pruned, weight_bytes(vlm.model), count_parameters(vlm.model)))
    if args.out is None:
        print(f"\n{recipe} is in the cache: the app and vlmcomp ask load it from there")
        return
    if reason := checkpoint.custom_loading_reason(vlm.model):
        print(f"\n{reason}: load it with vlmcomp.load({args.out!r})")
    print(f"\n{recipe} is in {args.out}")


def build_summary(
    recipe: Recipe,
    pruned: Sequence[PruningResult],
    bytes_by_part: Mapping[str, int],
    parameters_by_part: Mapping[str, int],
) -> str:
    """What compressing a model removed, and each part's bytes, parameters and changes, as plain text.

    Args:
        recipe: what was done.
        pruned: one result a pruning step.
        bytes_by_part: bytes of the weights as stored, by part (``results.schema.PARTS``).
        parameters_by_part: logical parameters by part.

    Returns:
        A line a pruning step, and a table without the parts that the model lacks.
    """
    lines = [
        f"{p.step}: kept {p.kept} of {p.of} {p.unit}, {p.real_percent:.1f} % removed "
        f"({p.asked_percent:g} % requested; {p.score}; {p.calibration})"
        for p in pruned
    ]
    rows = [("PART", "MB", "PARAMETERS", "CHANGED BY")]
    for part in filter(bytes_by_part.get, bytes_by_part):
        changes = [str(step) for step in recipe.steps if part in _PARTS_CHANGED_BY[step.target]]
        if part in _DECODER_PARTS and recipe.precision != "fp16":
            changes.append(recipe.precision)
        size = f"{bytes_by_part[part] / 1e6:,.3f}"
        count = f"{parameters_by_part[part]:,}"
        rows.append((part, size, count, ", ".join(changes) or "unchanged"))
    rows.append(("total", f"{sum(bytes_by_part.values()) / 1e6:,.3f}", f"{sum(parameters_by_part.values()):,}", ""))
    return "\n".join([*(lines or ["nothing was pruned"]), "", text_table(rows)])
