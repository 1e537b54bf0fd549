"""Start the app: python app.py [--share] [--host ADDRESS] [--port N] [--model NAME]."""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401 - must be imported before CUDA is initialized

from vlmcomp.app import page
from vlmcomp.cli.options import not_empty
from vlmcomp.models import registry


def main() -> None:
    parser = argparse.ArgumentParser(description="vlmcomp: compare compressed vision-language models.")
    parser.register("type", None, not_empty)  # as of the options of the command line
    parser.add_argument("--share", action="store_true", help="also create a public link (downloads a tunnel)")
    parser.add_argument(
        "--host", default=os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1", help="default: %(default)s"
    )
    parser.add_argument("--port", type=int, default=None, help="default: 7860, or the next free one")
    text = "model that the page shows first (default: %(default)s)"
    parser.add_argument("--model", choices=list(registry.MODELS), default=registry.DEFAULT_MODEL, help=text)
    args = parser.parse_args()
    try:
        blocks = page.build(args.model)
    except ValueError as error:  # an invalid environment variable
        parser.error(str(error))
    page.launch(blocks, args.host, args.port, args.share)


if __name__ == "__main__":
    main()
