"""The tensors of quantized Linears in a checkpoint. transformers does not notice all that are missing or misshapen."""

from __future__ import annotations

import math
from collections.abc import Mapping

from transformers import PreTrainedModel

from vlmcomp.compression.quantization.torchao import GROUP_SIZE
from vlmcomp.models import architecture
from vlmcomp.models.weight_files import StoredTensor, refuse_mismatched, refuse_missing

Shapes = dict[str, tuple[int, ...]]
_NF4_BLOCK = 64  # weights that share a scale
_NF4_NESTED_BLOCK = 256  # scales that share a scale
_PACKED_DTYPES = ("I8", "U8")  # in the names of safetensors


def check(stored: Mapping[str, StoredTensor], model: PreTrainedModel, precision: str) -> None:
    """Check that every packed weight of the decoder is complete.

    Args:
        stored: the tensors in the checkpoint's files; names may begin with other modules than in the model.
        model: dense, on the meta device.
        precision: of the checkpoint.

    Raises:
        UnusableWeights: tensors are missing or of another shape.
    """
    prefix = architecture.get_architecture(model).decoder
    missing: list[str] = []
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    in_files = _packed_modules(stored, precision)
    for path, linear in architecture.decoder_linears(model):
        tail = path.removeprefix(prefix)
        module = in_files.get(tail, path)
        for part, shape in _shapes(precision, linear.out_features, linear.in_features).items():
            name = f"{module}.{part}"
            if name not in stored:
                missing.append(name)
            elif shape and stored[name].shape != shape:
                mismatched[name] = stored[name].shape, shape
    refuse_missing(missing)
    refuse_mismatched(mismatched)


def _packed_modules(stored: Mapping[str, StoredTensor], precision: str) -> dict[str, str]:
    """The modules in the files that have a tensor of a packed weight, by their path from ``.layers`` on."""
    modules: dict[str, str] = {}
    for part in _shapes(precision, 0, 0):
        for name, tensor in stored.items():
            if name.endswith(f".{part}") and (part != "weight" or tensor.dtype in _PACKED_DTYPES):
                module = name.removesuffix(f".{part}")
                modules[f".layers.{module.rpartition('.layers.')[2]}"] = module
    return modules


def _shapes(precision: str, rows: int, columns: int) -> Shapes:
    """The shapes of the tensors of a packed (rows, columns) weight; an empty one is not known beforehand."""
    if precision == "int8":
        return {"weight": (rows, columns), "SCB": (rows,)}
    if precision == "int8-torchao":
        return {"_weight_qdata": (rows, columns), "_weight_scale": (rows, 1), "_weight_zero_point": (rows, 1)}
    if precision == "int4-torchao":
        groups = (columns // GROUP_SIZE, rows)
        return {"_weight_qdata": (rows, columns // 2), "_weight_scale": groups, "_weight_zero_point": groups}
    if precision == "int4":
        blocks = math.ceil(rows * columns / _NF4_BLOCK)
        return {
            "weight": (math.ceil(rows * columns / 2), 1),
            "weight.absmax": (blocks,),
            "weight.quant_map": (16,),
            "weight.nested_absmax": (math.ceil(blocks / _NF4_NESTED_BLOCK),),
            "weight.nested_quant_map": (256,),
            "weight.quant_state.bitsandbytes__nf4": (),
        }
    return {}
