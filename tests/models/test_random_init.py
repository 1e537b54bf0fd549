"""Random weights at true widths: the shapes are the published ones, every weight is there, and nothing is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlmcomp.cli.main import main
from vlmcomp.compression import size_estimate
from vlmcomp.evaluation import sweep
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.models import architecture, random_init, registry
from vlmcomp.models.configs import PUBLISHED_CONFIGS
from vlmcomp.models.loading import SequentialLoader
from vlmcomp.recipe import Recipe
from vlmcomp.results import store
from vlmcomp.results.schema import RANDOM_WEIGHTS

REAL = [m for m in registry.MODELS.values() if not m.bundled]


@pytest.mark.parametrize("entry", REAL, ids=lambda m: m.name)
def test_the_whole_architecture_has_the_published_sizes(entry: registry.ModelSpec) -> None:
    model = random_init.random_weights_model(entry).model
    counted = {name: p.shape for name, p in model.named_parameters()}
    assert counted == {name: p.shape for name, p in size_estimate.meta_model(entry.name).named_parameters()}
    assert all(p.is_meta for p in model.parameters()) and not any(b.is_meta for b in model.buffers())


@pytest.mark.parametrize("entry", REAL, ids=lambda m: m.name)
def test_the_image_takes_as_many_tokens_as_the_real_ones(entry: registry.ModelSpec) -> None:
    from PIL import Image

    made = random_init.random_weights_model(entry, 1)
    text = entry.prompt.format(question="What color is the shape?")
    inputs = made.processor(images=[Image.new("RGB", (640, 480))], text=[text], return_tensors="pt")
    config = made.model.config
    marks = {getattr(config, name, None) for name in ("image_token_id", "image_token_index")} - {None}
    found = sum(int((inputs["input_ids"] == mark).sum()) for mark in marks)
    if entry.min_max_pixels is None:
        side = config.vision_config.image_size // config.vision_config.patch_size
        tiles = inputs["pixel_values"].shape[1] if entry.family == "idefics3" else 1
        assert found == tiles * getattr(config, "num_query_tokens", side**2 // getattr(config, "scale_factor", 1) ** 2)
    else:  # a merged token covers a square of so many pixels a side
        covered = (config.vision_config.patch_size * config.vision_config.spatial_merge_size) ** 2
        assert entry.min_max_pixels[0] <= found * covered <= entry.min_max_pixels[1]


def test_what_arrives_is_drawn_once_and_whole() -> None:
    entry = registry.get_model_spec("qwen2-vl-2b")  # its lm_head is tied to the embeddings

    published = PUBLISHED_CONFIGS[entry.name]
    config = published | {"text_config": published["text_config"] | {"vocab_size": 1024}}

    def arrived() -> torch.nn.Module:
        model = random_init.random_weights_model(entry, 1, config).model
        loader = SequentialLoader(model, "cpu")
        loader.load_non_decoder()
        loader.load_layer(architecture.decoder_layers(model)[0])
        return model

    one, other = arrived(), arrived()
    assert not any(p.is_meta for p in one.parameters())
    assert one.get_output_embeddings().weight is one.get_input_embeddings().weight
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert p.ndim > 1 or p.unique().numel() == 1, name
        assert p.ndim < 2 or 0.015 < p.float().std() < 0.025, name


def test_random_weights_are_measured_marked_and_never_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = BenchmarkConfig((), random_weights=True, num_layers=1, device="cpu", new_tokens=3, warmup=0, runs=1)
    recipe = Recipe.parse("smolvlm-256m/int8")
    (report,) = sweep.run([recipe], plan, root=tmp_path, log=lambda line: None)
    assert report.error is None and report.weights == RANDOM_WEIGHTS and not report.quality
    assert report.hardware.slug.endswith("-random") and "1 of 30 layers" in report.source
    assert 64 < report.latency.prompt_tokens < 128 and report.size.disk_bytes == 0
    assert store.load_all(tmp_path) == [report]
    assert main(["report", "--root", str(tmp_path)]) == 0
    assert "random weights: the architecture alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["llava-shapes/fp16", "--weights", "random"], "leave out --weights random"),
        (["llava-1.5-7b/fp16", "--weights", "random", "--layers", "0"], "at least one layer"),
        (["llava-1.5-7b/fp16", "--weights", "random", "--task", "easy-vqa"], "answers no questions"),
        (["llava-1.5-7b/fp16", "--layers", "2"], "number of layers"),
    ],
)
def test_what_makes_no_sense_is_refused(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *args]) == 2
    assert words in capsys.readouterr().err
