"""The default calibration data of models from the Hub: real images with questions and answers of four kinds.

Each part is the beginning of a training split, at a fixed commit, of a data set whose annotations are published under
CC BY 4.0 by their authors; the Hub repository repackages them, and its own prompts are CC BY 4.0 too. Nothing of them
is part of this package. No part shares questions or images with what ``hub_tasks`` measures (VQAv2 and OK-VQA on COCO
val2014, TextVQA validation, GQA test-dev, whose images are from COCO's test set):

- ``vqav2``: VQAv2 train, whose images are COCO train2014.
- ``textvqa``, ``textcaps``: both on the images of TextVQA train, which its validation split does not contain.
- ``plotqa``: charts drawn from data.

Left out are ``aokvqa``, ``cocoqa`` and ``vsr`` (images of COCO train2017, which holds most of val2014), ``visual7w``,
``tallyqa`` and ``st_vqa`` (Visual Genome, which overlaps val2014), ``localized_narratives`` (Open Images, as TextVQA),
and sets whose licence forbids commercial use or is unclear (``dvqa``, ``figureqa``, ``chartqa``, ``docvqa``).

The commit, its configurations and its columns were checked in public code that reads them, and the splits and prompts
in the script that made them; the files themselves were not seen. Whether ``textcaps`` lists its images in the order of
``textvqa`` is unknown, so its first rows are passed over.
"""

from __future__ import annotations

from vlmcomp.data.bad_rows import BadRow, refuse
from vlmcomp.data.calibration_data import CalibrationSample
from vlmcomp.data.calibration_source import HubSource
from vlmcomp.data.hub_calibration import load_hub_samples
from vlmcomp.feedback import Progress


def _part(config: str, samples: int, skip: int = 0) -> HubSource:
    return HubSource(
        repo_id="HuggingFaceM4/the_cauldron",
        revision="847a98a779b1652d65111daf20c972dfcd333605",
        config=config,
        image="images",
        question="texts.user",
        answer="texts.assistant",
        samples=samples,
        skip=skip,
    )


MIXTURE = (
    _part("vqav2", 96),  # general questions
    _part("textvqa", 64),  # text in images
    _part("textcaps", 48, skip=100),  # descriptions
    _part("plotqa", 48),  # charts
)


def load_mixture(answers: str, progress: Progress) -> tuple[list[CalibrationSample], list[BadRow]]:
    """The samples of the mixture, its parts in turns, and rows that cannot be used.

    Args:
        answers: ``given``, or ``self`` to leave them out.
        progress: called with what is done, and the fraction done.

    Raises:
        ValueError: as ``load_hub_samples``.
    """
    turns: list[tuple[float, CalibrationSample]] = []
    bad: list[BadRow] = []
    for part in MIXTURE:
        samples, faults, _ = load_hub_samples(part, 0, answers, progress)  # each part states its number
        refuse(faults, len(faults) + len(samples), "skip")  # raises if no row of the part can be used
        turns += [((index + 0.5) / len(samples), sample) for index, sample in enumerate(samples)]
        bad += faults
    return [sample for _, sample in sorted(turns, key=lambda turn: turn[0])], bad
