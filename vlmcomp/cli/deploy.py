"""The verb that publishes the app."""

from __future__ import annotations

import argparse
import sys

from vlmcomp.cli.options import Subcommands
from vlmcomp.reporting import markdown


def add(verbs: Subcommands) -> None:
    deployed = ("--to user/space --dry-run", "--to user/space --hardware zero-a10g")
    sub = verbs.add("deploy", deploy, "push the app to a Space on the Hub", *deployed)
    sub.add_argument("--to", required=True, metavar="USER/SPACE", help="made if it is not there")
    sub.add_argument("--dry-run", action="store_true", help="list the files and licences, and push nothing")
    text = "of the Space, such as cpu-basic, zero-a10g (ZeroGPU) or l4x1; default: the Hub's, or as it is"
    sub.add_argument("--hardware", metavar="NAME", help=text)


def deploy(args: argparse.Namespace) -> None:
    from huggingface_hub.utils import logging

    from vlmcomp.cli import space
    from vlmcomp.results.schema import amount

    logging.set_verbosity_error()  # the client's retries would stand before the sentence
    space.validate_space(args.to, args.hardware)
    plan = space.plan_push()
    for what, names in (("pushed as on the disk, not as committed", plan.changed), ("not tracked", plan.untracked)):
        if names:
            print(f"{what}: {', '.join(names)}", file=sys.stderr)
    total = f"{len(plan.files)} files, {amount(sum(plan.files.values()))}, under {plan.license}"
    if not args.dry_run:
        api = space.connect()
        print(f"pushing {total} ...", file=sys.stderr, flush=True)
        print(space.push(api, plan, args.to, args.hardware))
        return
    print(markdown.aligned([("     BYTES", "FILE"), *((f"{size:10,}", name) for name, size in plan.files.items())]))
    print("\n" + markdown.aligned([("MODEL", "LICENCE"), *plan.models.items()]))
    print(f"\n{total}, would go to the Space {args.to}; nothing was pushed")
