"""What a model is calibrated on by default and by choice, weights of samples, and data that say little."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image

import vlmcomp
from tests.support import families, mixture_copy
from tests.support.hub_server import connect, serve
from vlmcomp.cli.main import main
from vlmcomp.compression import pipeline
from vlmcomp.compression.calibration import TokenWeights
from vlmcomp.compression.calibration_choice import choose_calibration
from vlmcomp.compression.pruning.pruner import PruningMethod
from vlmcomp.data.calibration_mixture import MIXTURE
from vlmcomp.data.calibration_set import CalibrationSet
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine

RESOLVED = Recipe.parse("llava-shapes/vis50+fp16")  # least squares alone: nothing is selected by the data


def _weights(data: object) -> dict[str, torch.Tensor]:
    every_token = PruningMethod(token_weights=TokenWeights(image_stride=1))  # whichever row a sample is in
    return pipeline.compress(RESOLVED, device="cpu", calibration_data=data, method=every_token).model.state_dict()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("spec", registry.MODELS.values(), ids=lambda spec: spec.name)
def test_only_bundled_models_are_calibrated_on_drawn_scenes(spec: registry.ModelSpec, no_network: None) -> None:
    recipe = Recipe.parse(f"{spec.name}/{spec.mlp}30+fp16")
    if spec.bundled:
        found = choose_calibration(recipe)
        assert found is not None and found.description == "drawn scenes"
    else:
        with pytest.raises(ValueError, match=r"cannot be reached .*mine.jsonl .*shapes"):
            choose_calibration(recipe)
    chosen = choose_calibration(recipe, "shapes", answers="self")
    assert chosen is not None and chosen.description == "drawn scenes, answers of the original model"
    assert len(chosen.samples) == spec.num_calibration_samples and not any(answer for *_, answer in chosen.samples)


@pytest.mark.parametrize("command", ["compress", "ask"])
def test_a_hub_model_without_network_is_refused_before_its_weights(
    command: str, no_network: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rest = ["--out", "x"] if command == "compress" else ["--image", "assets/examples/scene-6.png", "--question", "?"]
    words = [
        command,
        "llava-1.5-7b/glu30+fp16",
        *rest,
        "--source",
        str(tmp_path),
        "--device",
        "cpu",
    ]  # no weights there
    assert main(words) == 2
    assert "--calibration-data mine.jsonl" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--calibration-data", "none"], "no calibration source 'none'"),
        (["--calibration-data", "shapes", "--calibration-data", "x.jsonl"], "x.jsonl cannot be read"),
        (["--calibration-data", "shapes*-1"], "give a number above 0"),
        (["--answers", "mine"], "invalid choice: 'mine'"),
    ],
)
@pytest.mark.parametrize("words", [["compress", "--out", "x"], ["bench"], ["ask", "--image", "x", "--question", "x"]])
def test_options_are_refused_in_one_sentence(
    words: list[str], options: list[str], sentence: str, capsys: pytest.CaptureFixture
) -> None:
    assert main([words[0], "llava-shapes/glu30+int8", *words[1:], *options]) == 2
    assert sentence in (err := capsys.readouterr().err) and err.count("\n") == 1
    assert main([words[0], "llava-shapes/int8", *words[1:], "--calibration-data", "shapes"]) == 2
    assert "prunes nothing: remove --calibration-data" in capsys.readouterr().err


def test_a_weight_is_as_many_copies_of_a_sample(samples: list) -> None:
    few, many = samples[:3], samples[3:]
    weighted = CalibrationSet((*few, *many), (1.0,) * len(few) + (2.0,) * len(many))
    found, copied, plain = _weights(weighted), _weights([*few, *many, *many]), _weights([*few, *many])
    name = next(name for name in found if "layers.0" in name and name.endswith("o_proj.weight") and "language" in name)
    change, error = (float((found[name] - other[name]).float().norm()) for other in (plain, copied))
    assert error < change / 20  # later layers differ by what bfloat16 rounds in other batches


@pytest.mark.parametrize("recipe", ["heads25+glu30+fp16", "vis50+glu30+int8", "glu30+w4a16", "heads25+glu30+int4"])
def test_two_samples_of_one_image_give_finite_weights_and_a_warning(
    recipe: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new("RGB", (96, 96), "teal")
    data = [(image, "What color is it?", "teal")] * 2
    with caplog.at_level(logging.WARNING):
        vlm = pipeline.compress(Recipe.parse(f"llava-shapes/{recipe}"), device="cpu", calibration_data=data)
    tensors = [t for t in vlm.model.state_dict().values() if type(t) is torch.Tensor and t.is_floating_point()]
    assert tensors and all(tensor.isfinite().all() for tensor in tensors)
    assert Engine(vlm).generate(image, "What color is it?").text
    record = f" {vlm.quantization_backend} {vlm.pruned[0].calibration}"
    assert " recorded tokens for a width of 640, one image, own samples, sha256:" in record
    said = " ".join(caplog.messages)
    assert "fewer than the width of 640" in said and "the same image" in said


def test_a_hub_model_is_calibrated_on_the_mixture(
    tmp_path: Path, samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMCOMP_CACHE", str(tmp_path / "cache"))
    options = {"source": str(families.write("llava-1.5-7b", tmp_path / "tiny")), "device": "cpu"}
    copy = mixture_copy.write(tmp_path / "copy")
    with serve(MIXTURE[0].repo_id, copy, "datasets", str(MIXTURE[0].revision)) as hub:
        connect(hub, tmp_path / "hub", monkeypatch)
        record = vlmcomp.compress("llava-1.5-7b/glu30+fp16", **options).pruning[0].calibration
    *_, name, digest = record.split(", ")
    assert name == "real mixture" and digest.startswith("sha256:")
    own = vlmcomp.compress("llava-1.5-7b/glu30+fp16", **options, calibration_data=samples, answers="self").pruning[0]
    assert own.calibration.endswith("answers of the original model") and digest not in own.calibration
