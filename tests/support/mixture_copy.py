"""A small copy of the repository of the default mixture: configurations, columns and types, with made images."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from vlmcomp.data.calibration_mixture import MIXTURE

TEXT = Value("string")
TYPES = Features({"images": List(Image()), "texts": List({"user": TEXT, "assistant": TEXT, "source": TEXT})})
FEATURES = """\
  features:
  - name: images
    sequence: image
  - name: texts
    list:
    - name: user
      dtype: string
    - name: assistant
      dtype: string
    - name: source
      dtype: string
  splits:
  - name: train
    num_examples: 120
"""
ROWS = 120  # of each part
ROW_GROUP = 10


def _row(part: int, number: int) -> dict[str, object]:
    image = Pillow.new("RGB", (64, 48), (60 * part, number, 255 - number))
    pairs = [(f"Part {part}, row {number}, question {i}?\nBe succinct.", f"Answer {number}.{i}.") for i in range(3)]
    texts = [{"user": user, "assistant": assistant, "source": "made"} for user, assistant in pairs]
    return {"images": [image], "texts": texts}


def write(folder: Path) -> Path:
    """The copy: one shard each part, in row groups of ``ROW_GROUP``, described by the card as on the Hub."""
    configs, infos = [], []
    for number, part in enumerate(MIXTURE):
        assert part.config is not None
        data = Dataset.from_list([_row(number, row) for row in range(ROWS)], features=TYPES)
        (folder / part.config).mkdir(parents=True)
        data.to_parquet(folder / part.config / "train-00000-of-00001-0123456789abcdef.parquet", batch_size=ROW_GROUP)
        configs.append(
            f"- config_name: {part.config}\n  data_files:\n  - split: train\n    path: {part.config}/train-*\n"
        )
        infos.append(f"- config_name: {part.config}\n{FEATURES}")
    (folder / "README.md").write_text(f"---\ndataset_info:\n{''.join(infos)}configs:\n{''.join(configs)}---\n")
    return folder
