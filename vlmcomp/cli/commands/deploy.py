"""``deploy``: the app pushed to a Space."""

from __future__ import annotations

import argparse
import sys

from huggingface_hub.utils import logging

from vlmcomp.cli import space
from vlmcomp.feedback import format_bytes, format_count
from vlmcomp.models import registry
from vlmcomp.reporting import markdown


def run(args: argparse.Namespace) -> None:
    """Pushes the tracked files of this checkout, or lists them."""
    logging.set_verbosity_error()  # keeps the client's messages about retries away from the one sentence of an error
    space.validate_space(args.to, args.hardware)
    model = args.model or space.first_model(args.hardware)
    registry.get_model_spec(model)
    plan = space.plan_push()
    if plan.changed:
        print(f"with uncommitted changes: {', '.join(plan.changed)}", file=sys.stderr)
    if plan.untracked:
        print(f"not tracked by git, not pushed: {', '.join(plan.untracked)}", file=sys.stderr)
    total = f"{format_count(len(plan.files), 'file')}, {format_bytes(sum(plan.files.values()))}, license {plan.license}"
    if not args.dry_run:
        api = space.connect()
        print(f"pushing {total} ...", file=sys.stderr, flush=True)
        print(space.push(api, plan, args.to, args.hardware, model))
        return
    files = [(f"{size:10,}", name) for name, size in plan.files.items()]
    print(markdown.text_table([("     BYTES", "FILE"), *files]))
    print("\n" + markdown.text_table([("MODEL", "LICENSE"), *plan.models.items()]))
    print(f"\n{total} would be pushed to the Space {args.to}, which shows {model} first; nothing was pushed")
