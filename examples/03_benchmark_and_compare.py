"""Measure two recipes on the same questions, and ask whether the difference is more than chance.

Usage: python examples/03_benchmark_and_compare.py
"""

import vlmcomp

# For a 7B model on a GPU: "llava-1.5-7b", tasks such as "vqav2", and 1,000 or more questions.
MODEL = "llava-shapes"
SETTINGS = {"tasks": ["shapes-vqa"], "num_samples": 32}

baseline = vlmcomp.benchmark(f"{MODEL}/fp16", **SETTINGS)
quantized = vlmcomp.benchmark(f"{MODEL}/int8", **SETTINGS)
print(baseline)
print(quantized)

comparison = vlmcomp.compare(quantized, baseline)
print(comparison.verdict)

# The published results cover many more recipes, measured on 2,000 questions: no model is needed to read them.
print(vlmcomp.compare(f"{MODEL}/glu30+int8", f"{MODEL}/fp16", hardware="cpu-amd-epyc-2c").verdict)
