"""Calibration data from the Hub: streamed once, then read from the cache; one sentence for what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, List, Value
from huggingface_hub import constants
from PIL import Image as Pillow

from tests.support import mixture_copy
from tests.support.hub_server import COMMIT, Hub, connect, serve
from vlmcomp import files
from vlmcomp.data import hub_calibration
from vlmcomp.data.calibration_data import DEFAULT_QUESTION
from vlmcomp.data.calibration_mixture import MIXTURE
from vlmcomp.data.calibration_set import CalibrationSet, load_sources
from vlmcomp.data.hub_tasks import HUB_TASKS

TEXT = Value("string")
FLAT = Features(
    {"id": Value("int64"), "image": Image(), "question": TEXT, "answer": TEXT, "said": List({"text": TEXT})}
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixture_copy.write(tmp_path_factory.mktemp("mixture") / "copy")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path / "cache"))
    return tmp_path / "cache" / hub_calibration.FOLDER


@pytest.fixture
def there(copy: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that holds the mixture's data set and can be reached."""
    with serve(MIXTURE[0].repo_id, copy, "datasets", str(MIXTURE[0].revision)) as running:
        connect(running, tmp_path / "hub", monkeypatch)
        yield running


@pytest.fixture
def flat(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that holds a data set with a question and an answer in each row; two rows cannot be used."""
    rows = [_flat_row(number) for number in range(8)]
    rows[1]["answer"], rows[3]["image"] = " ", None
    (tmp_path / "copy" / "data").mkdir(parents=True)
    data = Dataset.from_list(rows, features=FLAT)
    data.to_parquet(tmp_path / "copy" / "data" / "train-00000-of-00001.parquet", batch_size=2)
    with serve("owner/name", tmp_path / "copy", "datasets") as running:
        connect(running, tmp_path / "hub", monkeypatch)
        yield running


def _flat_row(number: int) -> dict[str, object]:
    said = [{"text": text} for text in ("dark", f"a{number}", f"A{number}.")]
    image = Pillow.new("RGB", (60 + number, 50), (20 * number, 0, 0))
    return {"id": number, "image": image, "question": f"q{number}", "answer": f"a{number}", "said": said}


def load(
    text: str, count: int = 4, progress: Callable[..., None] = lambda *done: None, **options: str
) -> CalibrationSet:
    return load_sources(text, count, progress=progress, **options)


def test_the_mixture_is_pinned_and_disjoint_from_every_task() -> None:
    assert sum(part.samples or 0 for part in MIXTURE) == 256 and {part.split for part in MIXTURE} == {"train"}
    assert all(len(str(part.revision)) == 40 for part in MIXTURE)
    assert not {part.repo_id for part in MIXTURE} & {task.repo_id for task in HUB_TASKS.values()}


def test_the_mixture_comes_once(there: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    first = load("mixture", progress=lambda *done: seen.append(done))
    assert first.description == f"real mixture, {first.digest}" and first.digest.startswith("sha256:")
    assert [question.partition(",")[0] for _, question, _ in first.samples[:3]] == ["Part 0", "Part 1", "Part 3"]
    assert {question[:6] for _, question, _ in first.samples} == {f"Part {number}" for number in range(4)}
    assert all(question.endswith("?\nBe succinct.") for _, question, _ in first.samples)
    assert seen[0][0] == f"downloading calibration data, {there.repo} vqav2" and (seen[0][1], seen[-1][1]) != (1.0, 0.0)
    assert len(list(cache.iterdir())) == len(MIXTURE)
    asked = len(there.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = load("mixture")
    assert again.digest == first.digest and len(there.asked) == asked
    assert [sample[1:] for sample in again.samples] == [sample[1:] for sample in first.samples]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_a_damaged_cache_is_downloaded_again(damage: bytes | None, flat: Hub, cache: Path) -> None:
    first = load("hub:owner/name?answer=said.text", bad_rows="skip")
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(bytes(content) if damage is None else damage)
    asked = len(flat.asked)
    assert load("hub:owner/name?answer=said.text", bad_rows="skip").digest == first.digest
    assert len(flat.asked) > asked


def test_without_a_network_the_sentence_says_what_to_bring(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot be reached .*--calibration-data mine.jsonl .*or shapes") as error:
        load("mixture")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError) as other:
        load("mixture")
    assert str(error.value) == str(other.value)


def test_without_a_folder_to_write_to_it_is_downloaded(flat: Hub, tmp_path: Path, monkeypatch, caplog) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(files.CACHE_DIR_ENV, str(tmp_path / "file"))
    assert len(load("hub:owner/name?skip=4").samples) == 4 and "is not cached" in caplog.text


def test_a_missing_library_is_one_sentence(flat: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"owner/name is read by datasets: pip install -r requirements\.txt"):
        load("hub:owner/name")


def test_rows_that_cannot_be_used_are_named_or_skipped(flat: Hub) -> None:
    with pytest.raises(
        ValueError, match=r"owner/name, row 1: it has no answer; 2 of 6 rows are bad: .*--bad-rows skip"
    ):
        load("hub:owner/name", count=4)
    found = load("hub:owner/name", count=4, bad_rows="skip")
    assert [answer for *_, answer in found.samples] == ["a0", "a2", "a4", "a5"]
    assert found.name == f"hub:owner/name@{COMMIT}?samples=4" and found.description.endswith(", 2 bad rows skipped")


def test_columns_of_structs_and_several_answers(flat: Hub) -> None:
    found = load("hub:owner/name?answer=said.text&samples=2&skip=4")
    assert [sample[1:] for sample in found.samples] == [("q4", "a4"), ("q5", "a5")]
    assert [image.width for image, *_ in found.samples] == [64, 65]


def test_images_alone_are_for_the_original_model(flat: Hub) -> None:
    flat.folder = flat.folder / "images"
    (flat.folder / "data").mkdir(parents=True)
    rows = [{"image": _flat_row(number)["image"]} for number in range(3)]
    data = Dataset.from_list(rows, features=Features({"image": Image()}))
    data.to_parquet(flat.folder / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="row 0: it has no question; all 3 rows are bad"):
        load("hub:owner/name")
    assert [sample[1:] for sample in load("hub:owner/name", answers="self").samples] == [(DEFAULT_QUESTION, "")] * 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hub:owner/a--b", "'owner/a--b' is no name of a data set on the Hub"),
        ("hub:owner/other", "the Hub has no data set owner/other for you"),
        ("hub:owner/name@v9", "no longer has the revision v9 of owner/name"),
        ("hub:owner/name?config=none", "cannot be read: .*'none' not found"),
        ("hub:owner/name?split=test", "cannot be read: .*split"),
        ("hub:owner/name?image=picture", "has no column picture: it has id, image, question, answer, said"),
        ("hub:owner/name?answer=said", "row 0: .*said is dict, not text"),
        ("hub:owner/name?question=id", "row 0: .*id is int, not text"),
        ("hub:owner/name?image=question", "row 0: .*it has no image"),
        ("hub:owner/name?skip=20", "has no rows"),
    ],
)
def test_what_the_hub_does_not_have(text: str, sentence: str, flat: Hub) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        load(text)
    assert "\n" not in str(error.value)
