"""Silences known harmless warnings of the libraries; packages import it before they import transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable


def _drop(text: str) -> Callable[[logging.LogRecord], bool]:
    """A filter that drops the records whose unformatted message contains ``text``."""
    return lambda record: text not in str(record.msg)


# transformers imports torchao wherever it is installed, and torchao lists the CUDA kernels that it cannot load.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").addFilter(_drop("register_constant"))
# On CPUs with AVX512-BF16 bitsandbytes recommends a kernel from the Hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_drop("kernels-community"))
