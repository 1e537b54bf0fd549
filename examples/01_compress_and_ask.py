"""Compress a model, ask it a question, save it and load it again.

Usage: python examples/01_compress_and_ask.py
"""

from pathlib import Path

import vlmcomp

# For a 7B model on a GPU: "llava-1.5-7b/int4". It is downloaded on first use. vlmcomp.list_models() names them all.
RECIPE = "llava-shapes/int8"
IMAGE = Path(__file__).parents[1] / "assets/examples/scene-6.png"

model = vlmcomp.compress(RECIPE)
print(model)

folder = Path("llava-small")
model.save_pretrained(folder)  # the layout of transformers: AutoModelForImageTextToText.from_pretrained loads it too

model = vlmcomp.load(folder)
for answer in model.stream(IMAGE, "How many circles are there?"):
    print(answer.text, end="\r")
print(f"\n{answer.new_tokens} tokens, {answer.tokens_per_second:.0f} tokens/s")
