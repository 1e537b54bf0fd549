"""A measurement and a built variant are used again exactly as long as their source would give the same answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support import hub_server
from tests.support import made_reports as made
from vlmcomp.evaluation import provenance, sweep
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.reporting import grouping, results_tables
from vlmcomp.results import store
from vlmcomp.results.schema import Report
from vlmcomp.serving.variants import cache_key

FP16 = Recipe.parse("llava-shapes/fp16")
PRUNED = Recipe.parse("llava-shapes/glu30+int8")
TIMED = BenchmarkConfig(tasks=(), device="cpu", runs=len(made.report().latency.ttft_ms))
SETTINGS = [
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/tool_use.jinja"),
]
OTHERS = ["README.md", "trainer_state.json", "notes.txt", ".gitattributes", "runs/config.json"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Weights of one's own with every file that a repository may have."""
    folder = tmp_path / "source"
    shutil.copytree(registry.get_model_spec("llava-shapes").name_or_path, folder)
    for name in (*SETTINGS, *OTHERS):
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_text("{}")
    return folder


def _measured(config: BenchmarkConfig, root: Path, **changes: object) -> Path:
    """Path of a stored report of ``FP16`` as ``config`` measures it now."""
    return store.save(made.report(**provenance.collect_provenance(FP16, config), quality={}, **changes), root=root)


def _edit(file: Path) -> None:
    """Other content of the same length and the same time, as a copy that preserves times leaves it."""
    before = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("change", [_edit, _remove])
@pytest.mark.parametrize("name", ["model.safetensors", *SETTINGS])
def test_what_changes_answers_is_measured_and_built_again(
    source: Path, tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    config = replace(TIMED, source=str(source))
    file, key = _measured(config, tmp_path / "results"), cache_key(PRUNED, "cpu", str(source))
    facts = provenance.collect_provenance(FP16, config)
    assert sweep.load_if_complete(file, config) and provenance.same_provenance(store.load(file), facts)
    change(source / name)
    assert sweep.load_if_complete(file, config) is None
    assert not provenance.same_provenance(store.load(file), provenance.collect_provenance(FP16, config))
    assert cache_key(PRUNED, "cpu", str(source)).digest != key.digest


def test_what_changes_no_answer_is_used_again(source: Path, tmp_path: Path) -> None:
    config = replace(TIMED, source=str(source))
    file, key = _measured(config, tmp_path / "results"), cache_key(PRUNED, "cpu", str(source))
    for name in OTHERS:
        _edit(source / name)
        (source / f"new-{name.rpartition('/')[2]}").write_text("{}")
    assert sweep.load_if_complete(file, config) is not None
    assert cache_key(PRUNED, "cpu", str(source)).digest == key.digest
    shutil.rmtree(source)  # weights that were measured and then deleted
    assert sweep.load_if_complete(file, config) is not None


def test_a_log_of_answers_of_other_settings_is_not_taken_up(source: Path, tmp_path: Path) -> None:
    task = BenchmarkConfig(("shapes-vqa",)).load_tasks()[0]
    config = replace(TIMED, source=str(source))

    def logged() -> list:
        return provenance.prediction_logs(FP16, config, tmp_path / "results")(task).batches

    provenance.prediction_logs(FP16, config, tmp_path / "results")(task).append([{"id": "a"}])
    assert logged() == [[{"id": "a"}]]
    _edit(source / "generation_config.json")
    assert logged() == []


def test_a_report_from_before_settings_were_recorded(source: Path, tmp_path: Path) -> None:
    """One of bundled weights stays valid; what settings one's own weights had then is not known."""
    assert all(report.settings is None for report in store.load_all())
    config = replace(TIMED, source=str(source))
    given = store.load(_measured(config, tmp_path / "given"))
    assert sweep.load_if_complete(store.save(replace(given, settings=None), root=tmp_path / "given"), config) is None
    bundled = store.load(_measured(TIMED, tmp_path / "bundled"))
    assert bundled.settings and bundled.weights == "trained here"
    earlier = replace(bundled, settings=None)
    assert sweep.load_if_complete(store.save(earlier, root=tmp_path / "bundled"), TIMED) == earlier
    changed = replace(bundled, settings="sha256:0123")
    assert sweep.load_if_complete(store.save(changed, root=tmp_path / "bundled"), TIMED) is None


def _given(recipe: str, settings: str | None) -> Report:
    return made.report(recipe, source="mine", weights="given", settings=settings)


@pytest.mark.parametrize("settings", [None, "sha256:4567"])
def test_reports_of_other_settings_do_not_compare(settings: str | None) -> None:
    reports = [_given("llava-shapes/fp16", "sha256:0123"), _given("llava-shapes/int8", settings)]
    assert [len(group) for group in grouping.comparable_groups(reports)] == [1, 1]
    assert "settings sha256:0123" in results_tables.caption(reports[:1])
    earlier = made.report("llava-shapes/int8", settings=None)
    (group,) = grouping.comparable_groups([made.report("llava-shapes/fp16", settings="sha256:0123"), earlier])
    assert len(group) == 2


def test_the_newest_commit_of_a_repository_is_asked_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TIMED, source="user/mine")
    with hub_server.serve("user/mine", source) as running:
        hub_server.connect(running, tmp_path / "cache", monkeypatch)
        file = _measured(config, tmp_path / "results")
        assert store.load(file).revision == hub_server.COMMIT and running.sent == 0
        assert sweep.load_if_complete(file, config) is not None
        older = replace(store.load(file), revision="f" * 40)
        assert sweep.load_if_complete(store.save(older, root=tmp_path / "results"), config) is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # without a network nothing newer is known
    assert sweep.load_if_complete(file, config) == older
