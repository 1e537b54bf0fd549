"""Linears that share a product with packed weights, and the products on a CPU, by FBGEMM or oneDNN through PyTorch.

These multiply integers. Activations are brought to 127 steps by token, so that the answer to one does not hang on the
others of its batch. Where reading the weights takes the time, in decoding, what rounding a token left is multiplied as
a second token: twice the bits for the price of one. In a prompt that is done for tokens with values beyond the
threshold alone, which LLM.int8() (Dettmers et al., arXiv 2208.07339) computes in 16 bits.

Linears that are given the same tensor (query, key and value; gate and up) are multiplied as one: a call costs about as
much as reading a megabyte.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from vlmcomp.recipe import INT8_THRESHOLD

_STEPS = 127
_ZERO = 128  # the code of no steps, for oneDNN: without AMX it has fast products of unsigned activations alone
_LEAST = 1e-12
_SLICE = 256  # inputs that are unpacked at a time


class Product:
    """Weights (out, in), laid out for a kernel, which keeps the only copy."""

    @classmethod
    def of(cls, parts: Sequence[tuple[torch.Tensor, ...]]) -> Product:
        """That of all the weights that several Linears gave."""
        return cls(*map(torch.cat, zip(*parts)))

    def codes(self) -> torch.Tensor:
        """The weights (out, in), exactly as they were quantized."""
        raise NotImplementedError

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in) times the weights: (..., out) in float32 or the dtype of x."""
        raise NotImplementedError


class _Stepped(Product):
    """A product of whole steps."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.shape[-1]).float()
        steps, unit, low, largest = self._in_steps(tokens)
        if x.shape[-2] == 1:  # nothing here hangs on the values, so that a step can be captured
            y = self._finely(steps)
        else:
            fine = largest.flatten().gt(INT8_THRESHOLD).nonzero().flatten()
            exact = self._finely(steps[fine]) if len(fine) else None
            y = self._product(steps.round_())
            if exact is not None:
                y.index_copy_(0, fine, exact)
        return self._of_values(y, unit, low).view(*x.shape[:-1], -1)

    def _in_steps(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``tokens`` (N, in) in steps, not yet rounded; what a step is worth, what the first one stands for, and the
        largest magnitude, (N, 1) each."""
        raise NotImplementedError

    def _product(self, steps: torch.Tensor) -> torch.Tensor:
        """That of whole ``steps`` (N, in) and the weights."""
        raise NotImplementedError

    def _finely(self, steps: torch.Tensor) -> torch.Tensor:
        """That of ``steps`` before rounding, to twice the bits."""
        raise NotImplementedError

    def _of_values(self, y: torch.Tensor, unit: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """The product of the values that the steps stand for, in place."""
        raise NotImplementedError


class Fbgemm(_Stepped):
    """Steps from a token's least value to its greatest, 7 bits: 8 overflow on CPUs without VNNI. The kernel gives all
    tokens of a call one range, so that they are shifted and stretched to the same one before; the shift is made up for
    by the sums of the weight's rows."""

    @torch.no_grad()
    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.sums = codes.sum(1, dtype=torch.float32) * scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantized tensors may go in a later PyTorch
            zeros = torch.zeros(len(codes), dtype=torch.long)
            rows = torch._make_per_channel_quantized_tensor(codes.contiguous(), scale.double(), zeros, 0)
            self.packed = torch.ops.quantized.linear_prepack(rows, None)

    def codes(self) -> torch.Tensor:
        return torch.ops.quantized.linear_unpack(self.packed)[0].int_repr()

    def _in_steps(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        low, high = tokens.amin(1, keepdim=True), tokens.amax(1, keepdim=True)  # aminmax takes ten times as long
        unit = (high - low).clamp_min(_LEAST) / _STEPS
        return (tokens - low).div_(unit), unit, low, torch.maximum(-low, high)

    def _product(self, steps: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic(steps, self.packed, True)

    def _finely(self, steps: torch.Tensor) -> torch.Tensor:
        whole = steps.round()
        y, rest = self._product(torch.cat([whole, (steps - whole + 0.5) * _STEPS])).chunk(2)
        return torch.add(y - 0.5 * self.sums, rest, alpha=1 / _STEPS)

    def _of_values(self, y: torch.Tensor, unit: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return y.addcmul_(low / unit, self.sums).mul_(unit)


class Onednn(_Stepped):
    """Steps to both sides of zero, 8 bits: for CPUs with VNNI or AMX, which do not overflow."""

    @torch.no_grad()
    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.scale, self.zeros = scale, torch.zeros(len(codes), dtype=torch.long)
        self.packed, self.inputs = torch.ops.onednn.qlinear_prepack(codes.contiguous(), None), codes.shape[1]

    @torch.no_grad()
    def codes(self) -> torch.Tensor:
        """Read by multiplying unit vectors, whatever the layout."""
        ones = torch.ones_like(self.scale)
        places = torch.arange(self.inputs).split(_SLICE)
        units = ((nn.functional.one_hot(part, self.inputs) + _ZERO).to(torch.uint8) for part in places)
        return torch.cat([multiply(u, self.packed, ones, self.zeros).t().to(torch.int8) for u in units], dim=1)

    def _in_steps(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        largest = tokens.abs().amax(1, keepdim=True)
        unit = largest.clamp_min(_LEAST) / _STEPS
        return tokens / unit, unit, unit, largest

    def _product(self, steps: torch.Tensor) -> torch.Tensor:
        return multiply((steps + _ZERO).to(torch.uint8), self.packed, self.scale, self.zeros)

    def _finely(self, steps: torch.Tensor) -> torch.Tensor:
        whole = steps.round()
        y, rest = self._product(torch.cat([whole, ((steps - whole) * (2 * _STEPS)).round_()])).chunk(2)
        return torch.add(y, rest, alpha=0.5 / _STEPS)

    def _of_values(self, y: torch.Tensor, unit: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return y.mul_(unit)


def multiply(codes: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """``codes`` (N, in), unsigned around 128, times INT8 weights that oneDNN packed: (N, out) in float32.

    ``capture`` makes a script of this, which sees no constants of the module.
    """
    return torch.ops.onednn.qlinear_pointwise(
        codes, 1.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


class Shared:
    """A product that several Linears are parts of, made once for each tensor that all of them are given."""

    def __init__(self, product: Product, readers: int) -> None:
        self.product, self.readers = product, readers
        self._kept: tuple[torch.Tensor, torch.Tensor, int] | None = None  # what was given, the product, readers to come

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (..., in) times all the weights."""
        kept = self._kept
        if kept is None or kept[0] is not x:
            kept = x, self.product(x), self.readers
        _, y, left = kept
        self._kept = (x, y, left - 1) if left > 1 else None
        return y


class ProductLinear(nn.Linear):
    """A Linear that is some rows of a product."""

    shared: Shared
    rows: slice

    def take(self) -> tuple[torch.Tensor, ...]:
        """The packed weights and their scales, row by row, for a product; they no longer lie here."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.shared.of(x)[..., self.rows]
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)


class IntegerLinear(ProductLinear):
    """One of integers."""

    def codes(self) -> torch.Tensor:
        """The weights (out, in), exactly as they were quantized."""
        return self.shared.product.codes()[self.rows]


def multiply_by(product: type[Product], linears: Sequence[ProductLinear]) -> None:
    """Let one ``product`` multiply ``linears``, which are given the same tensor."""
    shared, start = Shared(product.of([linear.take() for linear in linears]), len(linears)), 0
    for linear in linears:
        linear.shared, linear.rows = shared, slice(start, start + linear.out_features)
        start += linear.out_features
