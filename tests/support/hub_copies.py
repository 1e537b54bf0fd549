"""Small copies of the Hub's VQA sets: the repositories' files, columns and types, with drawn images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value, load_dataset
from PIL import Image as Pillow

TEXT, NUMBER = Value("string"), Value("int64")
COLORS = ("red", "green", "blue", "black", "white", "yellow")
PEOPLE = 10


def said(color: str, wrong: int) -> list[str]:
    """What ten people answered, ``wrong`` of them something else, each his own."""
    return [color] * (PEOPLE - wrong) + [f"shade {i}" for i in range(wrong)]


def _image(number: int) -> Pillow.Image:
    return Pillow.new("RGB", (40 + number, 30), COLORS[number])


def _question(number: int) -> str:
    return f"What color is picture {number}?"


def _vqav2(number: int) -> dict[str, Any]:
    people = enumerate(said(COLORS[number], number), 1)
    return {
        "question_type": "what color is the",
        "multiple_choice_answer": COLORS[number],
        "answers": [{"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in people],
        "image_id": 262148 + number,
        "answer_type": ("yes/no", "number", "other")[number % 3],
        "question_id": 262148000 + number,
        "question": _question(number),
        "image": _image(number),
    }


def _textvqa(number: int) -> dict[str, Any]:
    return {
        "image_id": f"003a8ae2ef43b90{number}",
        "question_id": 34602 + number,
        "question": _question(number),
        "question_tokens": _question(number).split(),
        "image": _image(number),
        "image_width": 40 + number,
        "image_height": 30,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": said(COLORS[number], number),
        "image_classes": ["Sign"],
        "set_name": "val",
        "ocr_tokens": [],
    }


def _okvqa(number: int) -> dict[str, Any]:
    return {
        "question_id": f"{2971475 + number}",
        "image": _image(number),
        "question": _question(number),
        "answers": said(COLORS[number], number),
        "question_type": "one",
        "answer_type": "other",
    }


def _gqa(number: int) -> dict[str, Any]:
    argument = [{"operation": "select", "dependencies": [], "argument": "picture"}]
    return {
        "id": f"20156837{number}",
        "imageId": f"n{number // 2}",  # two questions an image
        "question": _question(number),
        "answer": COLORS[number // 2],
        "fullAnswer": f"The picture is {COLORS[number // 2]}.",
        "isBalanced": True,
        "groups": {"global": "color", "local": "06-picture_color"},
        "types": {"detailed": "directOf", "semantic": "attr", "structural": ("query", "verify")[number % 2]},
        "semantic": argument,
        "semanticStr": "select: picture",
    }


def _gqa_image(number: int) -> dict[str, Any]:
    return {"id": f"n{2 - number}", "image": _image(2 - number)}  # not in the questions' order


_PEOPLE = [{"answer": TEXT, "answer_confidence": TEXT, "answer_id": NUMBER}]
_GQA = {name: TEXT for name in ("id", "imageId", "question", "answer", "fullAnswer", "semanticStr")} | {
    "isBalanced": Value("bool"),
    "groups": {"global": TEXT, "local": TEXT},
    "types": {"detailed": TEXT, "semantic": TEXT, "structural": TEXT},
    "semantic": [{"operation": TEXT, "dependencies": List(Value("int32")), "argument": TEXT}],
}
_VQAV2 = {name: TEXT for name in ("question_type", "multiple_choice_answer", "answer_type", "question")} | {
    "answers": _PEOPLE,
    "image_id": NUMBER,
    "question_id": NUMBER,
    "image": Image(),
}
_TEXTVQA = {name: TEXT for name in ("image_id", "question", "flickr_original_url", "flickr_300k_url", "set_name")} | {
    **{name: List(TEXT) for name in ("question_tokens", "answers", "image_classes", "ocr_tokens")},
    **{name: Value("int32") for name in ("question_id", "image_width", "image_height")},
    "image": Image(),
}
_OKVQA = {name: TEXT for name in ("question_id", "question", "question_type", "answer_type")} | {
    "answers": List(TEXT),
    "image": Image(),
}
Files = list[tuple[str, int, Callable[[int], dict[str, Any]], dict[str, Any]]]  # start of names, rows, row, types
LAYOUTS: dict[str, Files] = {
    "vqav2": [("data/validation", 6, _vqav2, _VQAV2)],
    "gqa": [
        ("testdev_balanced_instructions/testdev", 6, _gqa, _GQA),
        ("testdev_balanced_images/testdev", 3, _gqa_image, {"id": TEXT, "image": Image()}),
    ],
    "textvqa": [("data/validation", 6, _textvqa, _TEXTVQA)],
    "okvqa": [("data/val2014", 6, _okvqa, _OKVQA)],
}


def write(name: str, folder: Path, shards: int = 2) -> Path:
    """A copy of the data set of the task ``name`` in ``folder``, row groups of two rows, and another split beside."""
    for start, count, row, types in LAYOUTS[name]:
        rows = [row(number) for number in range(count)]
        size = -(-count // shards)
        (folder / start).parent.mkdir(parents=True, exist_ok=True)
        for part in range(shards):
            data = Dataset.from_list(rows[part * size : (part + 1) * size], features=Features(types))
            data.to_parquet(folder / f"{start}-{part:05d}-of-{shards:05d}.parquet", batch_size=2)
        Dataset.from_dict({"x": [1]}).to_parquet((folder / start).parent / "train-00000-of-00001.parquet")
    return folder


def rewrite(shard: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Replace every row of a Parquet file by what ``change`` makes of it."""
    data = load_dataset("parquet", data_files=str(shard), split="train")
    Dataset.from_list([change(row) for row in data], features=data.features).to_parquet(shard)
