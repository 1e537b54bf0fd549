"""``deploy``: the subcommand that pushes the app to a Space."""

from __future__ import annotations

import argparse
import sys

from vlmcomp.cli.options import Subcommands
from vlmcomp.feedback import format_bytes
from vlmcomp.reporting import markdown


def add_subcommands(subcommands: Subcommands) -> None:
    """Adds this module's subcommand."""
    example = "--to user/space --hardware zero-a10g --dry-run"
    sub = subcommands.add("deploy", deploy, "push the app to a Space on the Hugging Face Hub", example)
    sub.add_argument("--to", required=True, metavar="USER/SPACE", help="the Space; created if it does not exist")
    sub.add_argument("--dry-run", action="store_true", help="list the files and licenses without pushing them")
    text = "cpu-basic, zero-a10g (ZeroGPU), l4x1, ... (default: cpu-basic for a new Space, unchanged for another)"
    sub.add_argument("--hardware", metavar="NAME", help=text)


def deploy(args: argparse.Namespace) -> None:
    """Pushes the tracked files of this checkout, or lists them."""
    from huggingface_hub.utils import logging

    from vlmcomp.cli import space

    logging.set_verbosity_error()  # keeps the client's messages about retries away from the one sentence of an error
    space.validate_space(args.to, args.hardware)
    plan = space.plan_push()
    if plan.changed:
        print(f"with uncommitted changes: {', '.join(plan.changed)}", file=sys.stderr)
    if plan.untracked:
        print(f"not tracked by git, not pushed: {', '.join(plan.untracked)}", file=sys.stderr)
    total = f"{len(plan.files)} files, {format_bytes(sum(plan.files.values()))}, license {plan.license}"
    if not args.dry_run:
        api = space.connect()
        print(f"pushing {total} ...", file=sys.stderr, flush=True)
        print(space.push(api, plan, args.to, args.hardware))
        return
    files = [(f"{size:10,}", name) for name, size in plan.files.items()]
    print(markdown.text_table([("     BYTES", "FILE"), *files]))
    print("\n" + markdown.text_table([("MODEL", "LICENSE"), *plan.models.items()]))
    print(f"\n{total} would be pushed to the Space {args.to}; nothing was pushed")
