"""Hub tasks: each public layout reads as what it says, images stay on disk, and what cannot be had is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import constants
from PIL import ImageColor

from tests.support import hub_copies
from tests.support.hub_server import COMMIT, Hub, connect, serve
from vlmcomp.cli import main
from vlmcomp.data import hub_tasks, parquet
from vlmcomp.data.answer_matching import exact_match, vqa_accuracy
from vlmcomp.data.task_registry import TASKS, get_task
from vlmcomp.evaluation import config, provenance
from vlmcomp.evaluation.quality import score
from vlmcomp.recipe import Recipe
from vlmcomp.results import store

NAMES = list(hub_tasks.HUB_TASKS)


pytestmark = pytest.mark.usefixtures("texts_cache")


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: hub_copies.write(name, tmp_path_factory.mktemp(name)) for name in NAMES}


def test_the_rows_are_whole_and_pinned() -> None:
    assert set(NAMES) == set(hub_copies.LAYOUTS) == {"vqav2", "gqa", "textvqa", "okvqa"}
    assert not set(NAMES) & set(TASKS)  # what a sweep asks by default downloads nothing
    for row in hub_tasks.HUB_TASKS.values():
        assert len(row.revision) == 40 and int(row.revision, 16) and row.license and row.repo_id.startswith("lmms-lab/")


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_reads_as_what_was_written(name: str, copies: dict[str, Path]) -> None:
    task = get_task(f"{name}={copies[name]}")
    samples = task.sample()
    colors = [hub_copies.COLORS[n // 2 if name == "gqa" else n] for n in range(6)]
    assert [s.question for s in samples] == [f"What color is picture {n}?" for n in range(6)]
    assert [s.reference for s in samples] == colors
    assert len({s.id for s in samples}) == 6
    for number, sample in enumerate(samples):
        seen = number // 2 if name == "gqa" else number
        assert sample.image.size == (40 + seen, 30) and sample.image.mode == "RGB"
        assert sample.image.getpixel((5, 5)) == pytest.approx(ImageColor.getrgb(colors[number]), abs=4)
    assert task.name == name and task.license == hub_tasks.HUB_TASKS[name].license
    assert task.default_num_samples == task.num_samples(None) == task.num_samples(10**6) == 6


@pytest.mark.parametrize("name", NAMES)
def test_the_metric_follows_how_many_answered(name: str, copies: dict[str, Path]) -> None:
    task = get_task(f"{name}={copies[name]}")
    samples = task.sample()
    rows = [
        {"id": s.id, "type": s.type, "question": s.question, "reference": s.reference, "answer": s.reference}
        | ({"references": list(s.references)} if s.references else {})
        for s in samples
    ]
    found = score(task, rows, 0, "minilm")
    assert found.exact_match == 1.0 and found.version == task.version and found.task_sha256 == task.sha256
    if name == "gqa":
        assert task.metric == "exact match" and found.vqa_accuracy is None
        return
    assert task.metric == "VQA accuracy" and all(len(s.references) == hub_copies.PEOPLE for s in samples)
    by_hand = [vqa_accuracy(hub_copies.COLORS[n], hub_copies.said(hub_copies.COLORS[n], n)) for n in range(6)]
    assert found.vqa_accuracy == pytest.approx(sum(by_hand) / 6)


def test_types_are_the_data_sets_own(copies: dict[str, Path]) -> None:
    types = {name: {s.type for s in get_task(f"{name}={copies[name]}").sample()} for name in NAMES}
    assert types["vqav2"] == {"yes/no", "number", "other"} and types["gqa"] == {"query", "verify"}
    assert types["textvqa"] == {"question"} and types["okvqa"] == {"one"}


@pytest.mark.parametrize("name", NAMES)
def test_one_look_at_a_time_is_the_whole_list(name: str, copies: dict[str, Path]) -> None:
    everything = get_task(f"{name}={copies[name]}").all_samples
    assert [replace(s, load_image=repr) for s in everything] == [
        replace(everything[i], load_image=repr) for i in range(6)
    ]
    assert everything[-1].id == everything[5].id and [s.id for s in everything[1:3]] == [
        everything[i].id for i in (1, 2)
    ]
    with pytest.raises(IndexError):
        everything[6]


def test_a_subset_is_named_by_its_seed_and_worded_by_the_model(copies: dict[str, Path]) -> None:
    task = get_task(f"vqav2={copies['vqav2']}")
    first, again = ([s.id for s in task.sample(3, 0)] for _ in range(2))
    assert first == again == sorted(first) and len(set(first)) == 3
    assert len({tuple(s.id for s in task.sample(3, seed)) for seed in range(8)}) > 1
    assert all(s.question.endswith("picture 0? One word.") for s in task.sample(short_answer_prompt="One word.")[:1])


def test_only_the_images_that_are_looked_at_are_read(copies: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    task, read = get_task(f"okvqa={copies['okvqa']}"), []
    opened = parquet.ParquetImages.load_image
    monkeypatch.setattr(parquet.ParquetImages, "load_image", lambda self, row: read.append(row) or opened(self, row))
    samples = task.sample(2, 1)
    assert not read and task.sha256
    _ = samples[1].image, samples[1].image
    assert len(read) == 2 and len(set(read)) == 1
    assert "image" not in task.all_samples._texts.column_names


def test_how_the_rows_are_spread_over_files_is_of_no_matter(tmp_path: Path, copies: dict[str, Path]) -> None:
    for name in NAMES:
        other = get_task(f"{name}={hub_copies.write(name, tmp_path / name, shards=1)}")
        task = get_task(f"{name}={copies[name]}")
        assert other.sha256 == task.sha256 and other.version != task.version  # other files, the same questions
        assert [s.image.size for s in other.sample()] == [s.image.size for s in task.sample()]


def test_the_version_follows_the_images_too(tmp_path: Path, copies: dict[str, Path]) -> None:
    folder = hub_copies.write("gqa", tmp_path)
    assert get_task(f"gqa={folder}").version == get_task(f"gqa={copies['gqa']}").version
    shard = folder / "testdev_balanced_images" / "testdev-00001-of-00002.parquet"
    hub_copies.rewrite(shard, lambda row: row | {"image": hub_copies._image(5)})
    changed = get_task(f"gqa={folder}")
    assert changed.version != get_task(f"gqa={copies['gqa']}").version
    assert changed.sha256 == get_task(f"gqa={copies['gqa']}").sha256


def _drop(shard: Path, column: str) -> None:
    load_dataset("parquet", data_files=str(shard), split="train").remove_columns(column).to_parquet(shard)


SHARD = "data/validation-00000-of-00002.parquet"
DAMAGES = {
    "no folder": (lambda d: [f.unlink() for f in d.rglob("*.parquet")], r"has no data/validation-\*.parquet"),
    "shard lost": (lambda d: (d / SHARD).unlink(), "has 1 of 2 files .* the copy is incomplete"),
    "no text": (lambda d: _drop(d / SHARD, "answers"), "has no column answers, which lmms-lab/VQAv2 has"),
    "no image": (lambda d: _drop(d / SHARD, "image"), "has no column image, which lmms-lab/VQAv2 has"),
    "not parquet": (lambda d: (d / SHARD).write_bytes(b"no"), "cannot be read as a copy of lmms-lab/VQAv2"),
    "one answer": (
        lambda d: hub_copies.rewrite(d / SHARD, lambda row: row | {"answers": row["answers"][:1]}),
        "row 0 does not read as one of lmms-lab/VQAv2",
    ),
    "twice": (
        lambda d: hub_copies.rewrite(d / SHARD, lambda row: row | {"question_id": 1}),
        "two questions have the same question_id",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_told_in_one_sentence(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    harm, sentence = DAMAGES[damage]
    harm(hub_copies.write("vqav2", tmp_path))
    with pytest.raises(ValueError, match=sentence) as error:
        get_task(f"vqav2={tmp_path}")
    assert "\n" not in str(error.value)
    capsys.readouterr()
    assert main.main(["bench", "llava-shapes/fp16", "--task", f"vqav2={tmp_path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gqa=", "write gqa, gqa@REVISION or gqa=DIR"),
        ("gqa@", "write gqa, gqa@REVISION or gqa=DIR"),
        ("gqa=missing", "there is no folder missing for the task gqa"),
        (
            "other=missing",
            "unknown task 'other=missing': choose from shapes-vqa, easy-vqa, objects-vqa, vqav2, gqa, textvqa, okvqa",
        ),
    ],
)
def test_a_name_that_is_none(name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        get_task(name)


def test_a_folder_of_ones_own_may_not_take_a_hub_tasks_name(tmp_path: Path) -> None:
    (tmp_path / "gqa").mkdir()
    hub_copies._image(0).save(tmp_path / "gqa" / "red.png")
    (tmp_path / "gqa" / "task.jsonl").write_text('{"image": "red.png", "question": "?", "answer": "red"}')
    with pytest.raises(ValueError, match="rename the folder"):
        get_task(str(tmp_path / "gqa"))


@pytest.fixture
def there(copies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that holds GQA and can be reached, and an empty cache."""
    hub_tasks._from_hub.cache_clear()
    with serve("lmms-lab/GQA", copies["gqa"], "datasets") as running:
        connect(running, tmp_path / "hub", monkeypatch)
        yield running
    hub_tasks._from_hub.cache_clear()


def test_only_the_splits_shards_come_and_only_once(there: Hub, copies: dict[str, Path], monkeypatch) -> None:
    task = get_task("gqa@main")
    assert task.version == f"lmms-lab/GQA@{COMMIT[:12]}" and task.name == "gqa"
    assert sorted(there.asked) == [f"testdev-0000{i}-of-00002.parquet" for i in (0, 0, 1, 1)]
    local = get_task(f"gqa={copies['gqa']}")
    assert task.sha256 == local.sha256
    assert [s.image.size for s in task.sample()] == [s.image.size for s in local.sample()]

    sent = there.sent
    for offline in (False, True):
        hub_tasks._from_hub.cache_clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        assert get_task(f"gqa@{COMMIT}").version == task.version and there.sent == sent


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "gqa",
            f"no longer has the revision {hub_tasks.HUB_TASKS['gqa'].revision} of "
            "lmms-lab/GQA: .*/datasets/lmms-lab/GQA",
        ),
        ("okvqa", "the Hub has no data set lmms-lab/OK-VQA for you"),
    ],
)
def test_what_the_hub_does_not_have(name: str, sentence: str, there: Hub) -> None:
    with pytest.raises(ValueError, match=f"{sentence}.*; or give a copy: --task {name}=DIR") as error:
        config.BenchmarkConfig(tasks=(name,)).validate()
    assert "\n" not in str(error.value)


def test_a_repository_laid_out_otherwise(there: Hub, tmp_path: Path) -> None:
    there.folder = hub_copies.write("okvqa", tmp_path / "other")
    with pytest.raises(ValueError, match=r"lmms-lab/GQA has no testdev_balanced.*\*.parquet at main"):
        get_task("gqa@main")


def test_without_a_network_and_a_download(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"the Hub cannot be reached.*give a copy: --task gqa=DIR"):
        get_task("gqa")


def test_two_copies_of_one_task_are_one_too_many(copies: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="two tasks have the same name"):
        config.BenchmarkConfig(tasks=(f"gqa={copies['gqa']}",) * 2).validate()


def test_a_copy_is_benchmarked_kept_rescored_and_shown(
    copies: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copies["vqav2"].parent)  # a relative folder must mean the same in the process that measures
    place, out = copies["vqav2"].name, str(tmp_path / "results")
    command = ["bench", "llava-shapes/fp16", "--task", f"vqav2={place}", "--samples", "4", "--out", out]
    command += ["--bertscore-model", "minilm", "--device", "cpu"]
    assert main.main(command) == 0
    assert "vqav2" in capsys.readouterr().out
    (report,) = store.load_all(tmp_path / "results")
    (found,), task = report.quality.values(), get_task(f"vqav2={copies['vqav2']}")
    assert list(report.quality) == ["vqav2"] and (found.task, found.version) == ("vqav2", task.version)
    assert found.samples == 4 and found.task_sha256 == task.sha256
    rows = store.load_predictions(report, tmp_path / "results")["vqav2"]
    wording = rows[0]["question"].partition("?")[2]
    assert [r["id"] for r in rows] == [s.id for s in task.sample(4)] and wording.strip()
    assert found.exact_match == sum(exact_match(r["answer"], r["reference"]) for r in rows) / 4
    assert found.vqa_accuracy == pytest.approx(sum(vqa_accuracy(r["answer"], r["references"]) for r in rows) / 4)

    assert main.main(command) == 0
    assert "(reused)" in capsys.readouterr().out
    assert main.main(["report", "--root", out, "--rescore"]) == 0
    shown = capsys.readouterr().out
    assert f"vqav2 {task.version}: 4 questions" in shown and "VQA accuracy on vqav2" in shown
    assert f"| {100 * found.exact_match:.1f} |" in shown and "vqav2 exact match %" in shown
    assert store.load_all(tmp_path / "results") == [report]


def test_answers_about_other_files_are_not_taken_over(copies: dict[str, Path], tmp_path: Path) -> None:
    one, other = copies["gqa"], hub_copies.write("gqa", tmp_path / "gqa", shards=1)  # equal texts, another subset
    of = provenance.prediction_logs(Recipe.parse("llava-shapes/fp16"), config.BenchmarkConfig(device="cpu"), tmp_path)
    of(get_task(f"gqa={one}")).append([{"id": "1"}])
    assert of(get_task(f"gqa={one}")).batches and not of(get_task(f"gqa={other}")).batches
