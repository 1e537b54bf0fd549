"""What subcommands refuse before the modules that run them, and torch with them, are imported."""

from __future__ import annotations

import argparse
import errno
import socket
from collections.abc import Sequence
from pathlib import Path

from vlmcomp import files
from vlmcomp.data.calibration_source import GIVEN, parse_sources
from vlmcomp.evaluation import extras
from vlmcomp.models import registry
from vlmcomp.models.source_check import RECIPE_FILE
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grid


def check_app(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for an unknown model, and for an address that cannot be bound, as if its port is in use."""
    registry.get_model_spec(args.model)
    if args.port is not None and not 1 <= args.port <= 65535:
        raise ValueError(f"{args.port} is not a port: give one from 1 to 65535")
    try:
        with socket.create_server((args.host, args.port or 0)):
            pass
    except OSError as error:
        if args.port and error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {args.port} is in use by another program: give another --port, or none") from None
        where = f"{args.host}:{args.port}" if args.port else args.host
        reason = str(error.strerror).partition(" (while")[0]
        raise ValueError(f"the app cannot be served at {where} ({reason}): give another --host") from None


def check_compress(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` or ``OSError`` for a recipe or a prompt that its model does not allow, a file or a source
    that does not exist, or a folder that is in use or cannot be written."""
    recipe = registry.parse_recipe(args.recipe)
    _check_weights(recipe, args)
    _check_calibration(args, [recipe])
    if args.out is not None:
        files.check_new_folder(Path(args.out))
    elif any((args.source, args.prompt_template, args.calibration_data)) or args.answers != GIVEN:
        raise ValueError("give a folder with --out: the cache holds what is built with the default options")


def _check_calibration(args: argparse.Namespace, recipes: Sequence[Recipe]) -> None:
    """Raises ``ValueError`` for calibration data that none of ``recipes`` needs, or that do not exist."""
    if args.calibration_data is None and args.answers == GIVEN:
        return
    if not any(recipe.needs_calibration for recipe in recipes):
        option = "--answers" if args.calibration_data is None else "--calibration-data"
        raise ValueError(f"{', '.join(map(str, recipes))} prunes nothing: remove {option}")
    if args.calibration_data is not None:
        parse_sources(args.calibration_data)


def _check_weights(recipe: Recipe, args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for a recipe, a prompt or a source that cannot be built."""
    spec = registry.with_prompt_template(registry.validate_recipe(recipe), args.prompt_template)
    if args.source and not Path(args.source).is_dir():
        from vlmcomp.models import download  # imports the Hub's client, which a folder does not need

        download.check_hub_id(spec, args.source)


def check_ask(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for what is neither a recipe that can be built nor a checkpoint, or options that a
    checkpoint does not take."""
    folder = Path(args.recipe_or_folder)
    if not folder.is_dir():
        recipe = _recipe_to_ask(args.recipe_or_folder)
        _check_weights(recipe, args)
        _check_calibration(args, [recipe])
        return
    if args.calibration_data or args.answers != GIVEN:
        raise ValueError(f"{folder} is compressed already: remove --calibration-data and --answers")
    for option, given in (("--source", args.source), ("--prompt-template", args.prompt_template)):
        if given is not None:
            raise ValueError(f"{folder} has weights and a prompt template of its own: remove {option}")
    if not (folder / RECIPE_FILE).is_file():
        raise ValueError(f"{folder} is not a vlmcomp checkpoint: it has no {RECIPE_FILE}")


def _recipe_to_ask(text: str) -> Recipe:
    """The recipe of a registered model. Raises ``ValueError`` for any other text, which may mean a folder."""
    name, _, rest = text.partition("/")
    try:
        return registry.parse_recipe(text)
    except ValueError:
        repository = "/".join(text.split("/")[:2])
        if name in registry.MODELS or registry.resolve_hub_id(repository) in registry.MODELS:
            raise
    closest = registry.closest_model(name)
    example = f"{closest}/{rest or 'int8'}" if closest else f"{registry.DEFAULT_MODEL}/int8"
    raise ValueError(
        f"there is no folder {text}, and no model of that name: give a folder that 'vlmcomp compress' wrote, or a "
        f"recipe such as {example} ('vlmcomp models' lists the models)"
    )


def check_train(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` or ``OSError`` for a model that is not trained here, a missing package, or a folder that
    cannot be written."""
    if args.name not in registry.TRAINABLE:
        raise ValueError(f"'{args.name}' cannot be trained here: choose from {', '.join(registry.TRAINABLE)}")
    extras.require(["easy_vqa"], "vlmcomp train", extra="train")
    for folder in filter(None, (args.out, args.work)):
        files.check_writable(Path(folder))


def check_doctor(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for an unknown model."""
    registry.get_model_spec(args.model)


def check_bench(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` for options that contradict each other, ``OSError`` for a folder that cannot be written."""
    recipes, _ = select_recipes(args)
    _check_calibration(args, recipes)
    if args.quick and args.samples is not None:
        raise ValueError("--quick sets the number of samples: remove --samples")
    files.check_writable(Path(args.results))


def select_recipes(args: argparse.Namespace) -> tuple[list[Recipe], list[str]]:
    """The recipes that ``bench`` measures, and the models of ``--all``.

    Raises:
        ValueError: options that contradict each other, or an unknown model.
    """
    recipes = [registry.parse_recipe(r) for r in dict.fromkeys(args.recipes)]
    if bool(recipes) == args.all:
        raise ValueError("give either recipes to measure, or --all")
    if args.model and not args.all:
        raise ValueError("--model requires --all: give recipes without --model, or add --all")
    if args.weights == "random" and (args.task or args.source or args.all):
        raise ValueError("--weights random answers no questions: give recipes, without --task, --source and --all")
    if args.weights == "random" and (args.calibration_data or args.answers != GIVEN):
        raise ValueError("random weights are worth no calibration: remove --calibration-data and --answers")
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
    files.check_writable(Path(args.results))


def recipes_to_record(args: argparse.Namespace) -> list[Recipe]:
    """The given recipes, or every recipe of the bundled models."""
    recipes = [registry.parse_recipe(r) for r in dict.fromkeys(args.recipes)]
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
    folders = (args.plots, args.rescore and args.results, docs and (docs if Path(docs).is_dir() else Path(docs).parent))
    for folder in filter(None, folders):
        files.check_writable(Path(folder))
