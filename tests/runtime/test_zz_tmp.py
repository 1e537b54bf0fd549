import warnings

import pytest
import torch


def test_jit():
    with pytest.raises((DeprecationWarning, FutureWarning)):
        torch.jit.script(lambda x: x) if False else torch.jit.trace(torch.nn.ReLU(), torch.zeros(1))


def test_q():
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        torch._make_per_channel_quantized_tensor(
            torch.zeros(2, 2, dtype=torch.int8), torch.ones(2).double(), torch.zeros(2, dtype=torch.long), 0
        )
    print([(x.category, str(x.message)[:80]) for x in w])
