"""The embedded models, by name."""

from __future__ import annotations

from vlmcomp.shapes.blip2 import BLIP2
from vlmcomp.shapes.llava import LLAVA
from vlmcomp.shapes.paligemma import PALIGEMMA
from vlmcomp.shapes.qwen2_vl import QWEN2_VL

BLUEPRINTS = {b.name: b for b in (LLAVA, BLIP2, PALIGEMMA, QWEN2_VL)}
