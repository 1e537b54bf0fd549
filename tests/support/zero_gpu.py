"""ZeroGPU's rules as far as ``spaces`` applies them without its machines: environment flags, torch.cuda faked in the
main process, one forked worker, a scheduler over HTTP. Run as a program; the CPU stands in for the GPU itself.

Usage: zero_gpu.py BUDGET_BYTES CACHE RECIPE...; prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from vlmcomp.serving.variant_cache import VariantCache

REQUESTS: list[tuple[str, dict[str, list[str]]]] = []


class _Scheduler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        url = urlparse(self.path)
        REQUESTS.append((url.path, parse_qs(url.query)))
        known = any(path == "/release" for path, _ in REQUESTS)
        body = {"idle": known, "nvidiaIndex": 0, "nvidiaUUID": "none", "allowToken": "one"}
        data = json.dumps(body if url.path == "/schedule" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def _cpu_stands_in() -> None:
    """Let the CPU stand in for what a worker does first: take its GPU, and copy to it the main process's tensors."""
    from spaces.zero import torch as zero
    from spaces.zero.torch.patching import cuda_aliases

    def move(callback: object = None) -> None:
        import torch

        for fake, original in cuda_aliases.items():
            fake.data = torch.Tensor(original) if type(original) is not torch.Tensor else original

    zero.init, zero.move = (lambda uuid: None), move


def main(budget: int, cache: VariantCache, recipes: list[str]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Scheduler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{server.server_port}"}
    import torch

    if torch.version.cuda is None:  # what a build for the CPU alone lacks
        torch.version.cuda, torch._C._cuda_init, torch.cuda._is_in_bad_fork = "12.8", bool, bool
        import bitsandbytes  # noqa: F401 - before torch.cuda seems to be there
    import spaces  # noqa: F401
    from spaces.zero import utils
    from spaces.zero.decorator import decorated_cache

    from vlmcomp.data.images import open_image
    from vlmcomp.recipe import Recipe
    from vlmcomp.serving import backend, zerogpu
    from vlmcomp.serving.manager import ModelUnavailable
    from vlmcomp.serving.recorded import examples

    utils.self_cgroup_device_path = lambda: "/"
    _cpu_stands_in()
    name = backend.select_backend(os.environ, backend.host_resources())
    zero_gpu = zerogpu.ZeroGpuBackend([Recipe.parse(r) for r in recipes], cache, budget)
    file, question = examples()[0]
    answers: dict[str, str] = {}
    failed: dict[str, str] = {}
    for recipe in map(Recipe.parse, recipes):
        try:
            *_, last = zero_gpu.stream(recipe, open_image(file), question)
            answers[str(recipe)] = last.text
        except ModelUnavailable as error:
            failed[str(recipe)] = str(error)
    first = next(iter(zero_gpu._models.values()))
    found = {
        "backend": name,
        "cuda": torch.cuda.is_available(),
        "device": str(first.device),
        "claimed": torch.cuda.get_device_properties(0).total_memory,
        "loaded_bytes": sum(h.own_bytes for h in zero_gpu.loaded_models()),
        "answers": answers,
        "failed": failed,
        "entries": len({id(f) for f in decorated_cache.values()}),
        "seconds": [int(q["durationSeconds"][0]) for path, q in REQUESTS if path == "/schedule"],
        "workers": len({q["pid"][0] for path, q in REQUESTS if path == "/allow"} - {str(os.getpid())}),
        "allowed": sum(path == "/allow" for path, _ in REQUESTS),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), VariantCache(Path(sys.argv[2]), 10**9), sys.argv[3:])
