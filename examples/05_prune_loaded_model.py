"""Prune and quantize a model that transformers has loaded, in place.

Usage: python examples/05_prune_loaded_model.py
"""

import json
from pathlib import Path

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import vlmcomp

# Any model of a supported family. For a 7B on a GPU: "llava-hf/llava-1.5-7b-hf", dtype="float16", device_map="cuda".
ASSETS = Path(__file__).parents[1] / "assets"
FOLDER = ASSETS / "models/llava-shapes"

model = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype="float32")
processor = AutoProcessor.from_pretrained(FOLDER)
print(f"before: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")

# Use at least 256 samples of your own task: image, question and answer.
image = Image.open(ASSETS / "examples/scene-6.png").convert("RGB")
samples = [(image, "How many circles are there?", "There are no circles.")] * 16
for result in vlmcomp.prune_(model, "glu30", samples, processor=processor):
    print(f"{result.step}: {result.kept} of {result.of} {result.unit} remain")
print(f"after: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")

vlmcomp.quantize_(model, "int8")
model.save_pretrained("llava-pruned")
config = json.loads(Path("llava-pruned/config.json").read_text())
print(config["text_config"]["intermediate_size"], "neurons;", config["quantization_config"]["quant_method"])
