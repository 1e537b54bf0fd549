"""Compressing, loading, asking, saving and sharing a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import torch

from vlmcomp import hardware
from vlmcomp.api.argument_types import check_paths, check_progress, check_texts
from vlmcomp.api.arguments import ImageInput, check_batch, check_calibration_data, check_length, parse_recipe
from vlmcomp.api.hub_checkpoint import download_checkpoint, upload_checkpoint
from vlmcomp.compression import checkpoint
from vlmcomp.compression.calibration_choice import CalibrationData, choose_calibration
from vlmcomp.compression.size import weight_bytes
from vlmcomp.data.images import normalize_question, open_image
from vlmcomp.feedback import ShownProgress, format_bytes, refuse_empty, shown_progress
from vlmcomp.models import registry
from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import Recipe
from vlmcomp.results.answer import Answer
from vlmcomp.results.schema import PruningResult
from vlmcomp.runtime import self_answers
from vlmcomp.runtime.engine import Engine


class Model:
    """A compressed vision-language model that answers questions about images.

    ``compress`` and ``load`` return one. Answers are greedy.

    Example:
        >>> import vlmcomp
        >>> model = vlmcomp.compress("llava-shapes/int8", device="cpu")
        >>> model
        Model(llava-shapes/int8, 5.3 MB, cpu)
        >>> model.ask("assets/examples/scene-6.png", "How many circles are there?").text
        'There are no circles.'
    """

    def __init__(self, vlm: VLM) -> None:
        self._vlm = vlm
        by_part = weight_bytes(vlm.model)  # before the runtime repacks weights
        self._size = MappingProxyType({part: size for part, size in by_part.items() if size})

    def __repr__(self) -> str:
        return f"Model({self.recipe}, {format_bytes(sum(self.size.values()))}, {self.device})"

    @property
    def vlm(self) -> VLM:
        """The Hugging Face model and processor (``vlm.model``, ``vlm.processor``), and how they were made."""
        return self._vlm

    @property
    def recipe(self) -> Recipe:
        return self._vlm.recipe

    @property
    def device(self) -> torch.device:
        return self._vlm.device

    @property
    def pruning(self) -> tuple[PruningResult, ...]:
        """What each pruning step of the recipe removed."""
        return tuple(self._vlm.pruned)

    @property
    def size(self) -> Mapping[str, int]:
        """Bytes of the weights by part, such as ``"decoder MLP"``; only parts with weights of their own."""
        return self._size

    @cached_property
    def engine(self) -> Engine:
        """Runs the model; created by the first question, so that a model that is only saved is never optimized."""
        return Engine(self._vlm)

    def ask(self, image: ImageInput, question: str, max_new_tokens: int = 64) -> Answer:
        """Answer one question about one image.

        Args:
            image: path of an image file, or a PIL image.
            question: at most 500 characters.
            max_new_tokens: maximum length of the answer, 1 to 256.

        Returns:
            The answer's text and its timing.

        Raises:
            ValueError: the image cannot be read, the question is empty or too long, or ``max_new_tokens`` is out of
                range.

        Example:
            >>> import vlmcomp
            >>> model = vlmcomp.compress("llava-shapes/int8", device="cpu")
            >>> answer = model.ask("assets/examples/scene-6.png", "How many circles are there?")
            >>> answer.text, answer.new_tokens
            ('There are no circles.', 6)
        """
        check_length(max_new_tokens)
        return self.engine.generate(open_image(image), normalize_question(question), max_new_tokens)

    def stream(self, image: ImageInput, question: str, max_new_tokens: int = 64) -> Iterator[Answer]:
        """Answer one question token by token.

        Args:
            image: path of an image file, or a PIL image.
            question: at most 500 characters.
            max_new_tokens: maximum length of the answer, 1 to 256.

        Returns:
            The answer so far after each token; the last one is ``finished``. Closing the iterator stops generation.

        Raises:
            ValueError: as for ``ask``, before the first token.

        Example:
            >>> import vlmcomp
            >>> model = vlmcomp.compress("llava-shapes/int8", device="cpu")
            >>> for answer in model.stream("assets/examples/scene-6.png", "How many circles are there?"):
            ...     text = answer.text
            >>> text
            'There are no circles.'
        """
        check_length(max_new_tokens)
        return self.engine.stream(open_image(image), normalize_question(question), max_new_tokens)

    def generate(self, images: Sequence[ImageInput], questions: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Answer a batch of questions, one about each image.

        Args:
            images: paths or PIL images.
            questions: one for each image.
            max_new_tokens: maximum length of each answer, 1 to 256.

        Returns:
            The texts of the answers, in the order of the questions.

        Raises:
            ValueError: as for ``ask``, or the two sequences differ in length.

        Example:
            >>> import vlmcomp
            >>> model = vlmcomp.compress("llava-shapes/int8", device="cpu")
            >>> model.generate(["assets/examples/scene-6.png"] * 2, ["How many circles are there?"] * 2)
            ['There are no circles.', 'There are no circles.']
        """
        check_length(max_new_tokens)
        images, questions = check_batch(images, questions)
        if not images:
            return []
        batch = [open_image(image) for image in images]
        return self.engine.generate_batch(batch, [normalize_question(q) for q in questions], max_new_tokens)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model in the layout of transformers, with its recipe beside it. ``load`` reads it back.

        Args:
            folder: a new or empty folder; all of the model appears in it at once, or nothing.

        Raises:
            ValueError: the folder is not empty, or this is an ``int4`` (bitsandbytes) model that has already answered
                on a CPU, which repacks its weights: save such a model before asking it.
            OSError: the folder cannot be written.

        Example:
            >>> import tempfile, vlmcomp
            >>> model = vlmcomp.compress("llava-shapes/int8", device="cpu")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder)
            ...     vlmcomp.load(folder, device="cpu")
            Model(llava-shapes/int8, 5.3 MB, cpu)
        """
        refuse_empty(folder=folder)
        check_paths(folder=folder)
        checkpoint.save(self._vlm, Path(folder))

    def push_to_hub(self, repo_id: str, private: bool = True) -> str:
        """Upload the model to the Hugging Face Hub. ``load`` downloads it again.

        Args:
            repo_id: ``user/name``; the repository is created if it does not exist.
            private: whether a new repository is private. Check the license of the original weights before sharing them.

        Returns:
            The URL of the repository.

        Raises:
            ValueError: as for ``save_pretrained``, or one sentence on why the upload failed.
            OSError: the folder for temporary files (``TMPDIR``) cannot hold the model.
        """
        refuse_empty(repo_id=repo_id)
        check_texts(repo_id=repo_id)
        return upload_checkpoint(self._vlm, repo_id, private)


def compress(
    recipe: str | Recipe,
    steps: str | None = None,
    *,
    calibration_data: CalibrationData | None = None,
    answers: str = "given",
    bad_rows: str = "error",
    device: str | None = None,
    source: str | None = None,
    prompt_template: str | None = None,
    progress: ShownProgress = "terminal",
) -> Model:
    """Download, prune and quantize a model.

    Args:
        recipe: what to do, such as ``"llava-shapes/glu30+int8"``, or a model name if ``steps`` are given.
        steps: pruning steps and precision, such as ``"glu30+int8"``.
        calibration_data: what to prune and round by: an iterable of (image, question, answer), or sources with commas:
            ``"mixture"`` (real images, the default of a model from the Hub), ``"shapes"`` (drawn scenes, that of a
            bundled one), a JSON Lines file, a folder, ``"hub:OWNER/NAME"``. At least 2 samples; 256 are better.
        answers: ``"self"`` lets the original model, which must then fit on the device, answer the questions; the data
            need no answers then, and images without a question are described. Default: ``"given"``.
        bad_rows: what to do with rows of the calibration data that cannot be used: ``"error"``, or ``"skip"``, which
            counts them in ``Model.pruning``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. Default: a GPU if there is one.
        source: folder or Hub id of the original weights, if they are not those of the model's authors.
        prompt_template: prompt that these weights were trained with, such as
            ``"USER: <image>\\n{question} ASSISTANT:"``, if it is not that of the model's authors; saved with the model.
        progress: called with a text and the fraction done, from 0 to 1; None shows nothing. Default: a bar on stderr
            with the time left, if that is a terminal.

    Returns:
        The compressed model, ready to answer.

    Raises:
        ValueError: the recipe is misspelled or does not fit the model, a library is missing, the weights cannot be
            downloaded, the calibration data is unusable, or the device does not exist.

    Example:
        >>> import vlmcomp
        >>> vlmcomp.compress("llava-shapes", "int8", device="cpu")
        Model(llava-shapes/int8, 5.3 MB, cpu)
        >>> vlmcomp.compress("llava-shapes/ffn30+int8")
        Traceback (most recent call last):
        ...
        ValueError: ffn30 does not fit llava-shapes, whose MLP is gated: use glu30
    """
    refuse_empty(calibration_data=calibration_data, device=device, source=source, prompt_template=prompt_template)
    parsed = parse_recipe(recipe, steps)
    registry.validate_recipe(parsed)
    check_progress(progress)
    check_paths(source=source)
    check_texts(prompt_template=prompt_template)
    hardware.usable_device(device)  # raises before any work if it does not exist
    data = check_calibration_data(calibration_data)
    with shown_progress(progress) as report:
        calibration = choose_calibration(parsed, data, answers=answers, bad_rows=bad_rows, progress=report)
        vlm = self_answers.compress(
            parsed, calibration, device=device, source=source, prompt_template=prompt_template, progress=report
        )
    return Model(vlm)


def load(
    folder_or_repo: str | Path,
    *,
    device: str | None = None,
    revision: str | None = None,
    progress: ShownProgress = "terminal",
) -> Model:
    """Load a model that ``Model.save_pretrained``, ``Model.push_to_hub`` or ``vlmcomp compress`` wrote.

    Args:
        folder_or_repo: a folder, or the id of a Hub repository such as ``"user/llava-small"``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. Default: a GPU if there is one.
        revision: branch, tag or commit of the Hub repository.
        progress: of a download, as for ``compress``.

    Returns:
        The model, whose answers are those of the model that was saved.

    Raises:
        ValueError: there is no such folder or repository, it was not written by vlmcomp, it is damaged, or it needs a
            library that is not installed.

    Example:
        >>> import vlmcomp
        >>> vlmcomp.load("llava-shapes")
        Traceback (most recent call last):
        ...
        ValueError: 'llava-shapes' is a model, not a saved checkpoint: use vlmcomp.compress('llava-shapes/int8')
    """
    refuse_empty(folder_or_repo=folder_or_repo, device=device, revision=revision)
    check_paths(folder_or_repo=folder_or_repo)
    check_texts(revision=revision)
    hardware.usable_device(device)  # raises before any work if it does not exist
    folder = Path(folder_or_repo)
    if not folder.is_dir():
        with shown_progress(progress) as report:
            folder = download_checkpoint(str(folder_or_repo), revision, report)
    return Model(checkpoint.load(folder, device))
