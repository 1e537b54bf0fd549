"""Prune a model with your own images: which neurons matter depends on the data that the model will see.

Usage: python examples/02_own_calibration_data.py
"""

import json
from pathlib import Path

import vlmcomp

EXAMPLES = Path(__file__).parents[1] / "assets/examples"
QUESTIONS = {"How many circles are there?": "There are no circles.", "What color is the largest object?": "red"}

# One JSON object a line. Use at least 256 samples of your own task: the few here only show the format.
with Path("calibration.jsonl").open("w") as file:
    for image in sorted(EXAMPLES.glob("*.png")):
        for question, answer in QUESTIONS.items():
            file.write(json.dumps({"image": str(image), "question": question, "answer": answer}) + "\n")

# "heads25" would remove a quarter of the attention heads; for a 7B model on a GPU: "llava-1.5-7b/glu30+int4".
model = vlmcomp.compress("llava-shapes/glu20+int8", calibration_data="calibration.jsonl")
for step in model.pruning:
    print(f"{step.step}: {step.kept} of {step.of} {step.unit} remain ({step.calibration})")
for part, size in model.size.items():
    print(f"{part:20} {size / 1e6:6.2f} MB")
