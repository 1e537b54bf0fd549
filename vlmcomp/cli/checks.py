"""What subcommands refuse before the modules that run them, and torch with them, are imported."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmcomp import files
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grid


def check_compress(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` or ``OSError`` for a recipe or a prompt that its model does not allow, or a folder that is
    in use or cannot be written."""
    recipe = Recipe.parse(args.recipe)
    registry.with_prompt_template(registry.validate_recipe(recipe), args.prompt_template)
    if args.calibration_data and not recipe.needs_calibration:
        raise ValueError(f"{recipe} prunes nothing: remove --calibration-data")
    files.check_new_folder(Path(args.out))


def check_bench(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for options that contradict each other, ``OSError`` for a folder that cannot be written."""
    select_recipes(args)
    if args.quick and args.samples is not None:
        raise ValueError("--quick sets the number of samples: remove --samples")
    files.check_writable(Path(args.out))


def select_recipes(args: argparse.Namespace) -> tuple[list[Recipe], list[str]]:
    """The recipes that ``bench`` measures, and the models of ``--all``.

    Raises:
        ValueError: options that contradict each other, or an unknown model.
    """
    recipes = [Recipe.parse(r) for r in dict.fromkeys(args.recipes)]
    if bool(recipes) == args.all:
        raise ValueError("give either recipes to measure, or --all")
    if args.model and not args.all:
        raise ValueError("--model requires --all: give recipes without --model, or add --all")
    if args.weights == "random" and (args.task or args.source or args.all):
        raise ValueError("--weights random answers no questions: give recipes, without --task, --source and --all")
    models = [args.model] if args.model else grid.bundled_models()
    recipes = recipes or [recipe for model in models for recipe in grid.buildable_recipes(model)]
    if (args.source or args.prompt_template) and len({recipe.model for recipe in recipes}) > 1:
        option = "--source" if args.source else "--prompt-template"
        raise ValueError(f"{option} is for the weights of one model: give only its recipes, or --all with --model")
    return recipes, models


def check_experiment(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` or ``OSError`` for a number of seeds or a device that the experiments cannot use, or a file
    that cannot be written."""
    if args.seeds < 1:
        raise ValueError("--seeds must be at least 1")
    if args.device == "cuda" and args.part != ["speed"]:
        raise ValueError("on a GPU only the speed is measured: give --part speed, or --device cpu")
    if args.out:
        file = Path(args.out)
        files.check_file_writable(file)
        if file.suffix == ".md":
            raise ValueError(f"{file} is where the tables go: give the results another name, such as {file.stem}.json")


def check_record(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for a recipe that its model does not allow, ``OSError`` for a folder that cannot be
    written."""
    for recipe in recipes_to_record(args):
        registry.validate_recipe(recipe)
    files.check_writable(Path(args.out))


def recipes_to_record(args: argparse.Namespace) -> list[Recipe]:
    """The given recipes, or every recipe of the bundled models."""
    recipes = [Recipe.parse(r) for r in dict.fromkeys(args.recipes)]
    return recipes or [recipe for model in grid.bundled_models() for recipe in grid.buildable_recipes(model)]


def check_report(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for options that contradict each other, ``OSError`` for what cannot be written."""
    docs = args.docs or args.readme
    if docs and (args.model or args.hardware or args.task):
        option = "--docs" if args.docs else "--readme"
        raise ValueError(f"{option} shows every model: remove --model, --hardware and --task")
    if args.out and (docs or args.plots):
        raise ValueError("--out is for tables: remove it, or --docs and --plots")
    if args.out:
        files.check_file_writable(Path(args.out))
    if docs:
        Path(docs).stat()  # raises if it does not exist
    folders = (args.plots, args.rescore and args.root, docs and (docs if Path(docs).is_dir() else Path(docs).parent))
    for folder in filter(None, folders):
        files.check_writable(Path(folder))
