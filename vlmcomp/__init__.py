"""vlmcomp: compress vision-language models and measure what it costs."""

import logging

__version__ = "0.1.0"

# transformers imports torchao wherever it is installed, and that says which of its CUDA kernels it cannot load.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in record.getMessage())
# On CPUs with AVX512-BF16 it says that it would rather have a kernel from the Hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "kernels-community" not in record.msg)
