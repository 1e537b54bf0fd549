"""The bundled models by name."""

from __future__ import annotations

from vlmcomp.training.blip2 import BLIP2
from vlmcomp.training.llava import LLAVA, LLAVA_OBJECTS
from vlmcomp.training.paligemma import PALIGEMMA
from vlmcomp.training.qwen2_vl import QWEN2_VL

TINY_MODELS = {spec.name: spec for spec in (LLAVA, BLIP2, PALIGEMMA, QWEN2_VL, LLAVA_OBJECTS)}
