"""Build one recipe from a folder and print the most memory of its own that the process held meanwhile, as JSON.

Pages of mapped files are not counted: the system takes them back when it needs them.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path

from vlmcomp.compression.activation_stats import solver_memory_bytes
from vlmcomp.compression.pipeline import compress
from vlmcomp.compression.size import weight_bytes
from vlmcomp.data.calibration_data import synthetic_calibration_data
from vlmcomp.models import architecture
from vlmcomp.models.loading import load
from vlmcomp.models.registry import get_model_spec
from vlmcomp.recipe import Recipe


def own() -> int:
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main(text: str, source: str) -> None:
    recipe, samples = Recipe.parse(text), list(synthetic_calibration_data(8))
    compress(
        Recipe.parse("llava-shapes/glu30+int4"), device="cpu", calibration_data=samples
    )  # libraries are loaded before
    before, most, stop = own(), [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            most[0] = max(most[0], own() - before)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    mapped = load(get_model_spec(recipe.model), source, lambda text, share: None).model
    layer = architecture.decoder_layers(mapped)[0]
    facts = {
        "loaded": own() - before,
        "dense": 4 * sum(p.numel() for p in mapped.parameters()),
        "layer": 4 * sum(p.numel() for p in layer.block.parameters()),
        "moments": solver_memory_bytes(layer.down_proj.in_features, layer.down_proj.out_features),
    }
    vlm = compress(recipe, device="cpu", source=source, calibration_data=samples if recipe.steps else None)
    stop.set()
    watcher.join()
    print(json.dumps(facts | {"peak": most[0], "result": sum(weight_bytes(vlm.model).values())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
