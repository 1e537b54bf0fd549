"""Start the app: ``python app.py`` is ``vlmcomp app``, with the same options. Spaces run this file."""

from __future__ import annotations

import os
import sys

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401 - must be imported before CUDA is initialized

from vlmcomp.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
