"""A prompt template of one's own replaces the registry's, and stays with what is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlmcomp.cli.main import main
from vlmcomp.compression import checkpoint
from vlmcomp.evaluation import provenance
from vlmcomp.evaluation.config import BenchmarkConfig
from vlmcomp.models import registry
from vlmcomp.recipe import Recipe

SHAPES = registry.get_model_spec("llava-shapes")
TEMPLATE = 'User {"mode": 1} <image>\n{question}\nAssistant:'


@pytest.mark.parametrize(
    "name, template, sentence",
    [
        ("llava-shapes", "USER: <image>", r"has \{question\} once"),
        ("llava-shapes", "{question} <image> {question}", r"has \{question\} once"),
        ("llava-shapes", "{question}", "has <image> once"),
        ("llava-shapes", "<image><image>{question}", "has <image> once"),
        ("llava-shapes", "<image>{question}<|image_pad|>", r"has <\|image_pad\|> nowhere"),
        ("blip2-opt-2.7b", "<image>{question}", "has <image> nowhere"),
        ("qwen2-vl-2b", "<image>{question}", "has <image> nowhere"),
        ("qwen2-vl-2b", "{question}", r"has <\|image_pad\|> once"),
    ],
)
def test_a_template_without_one_question_or_its_image_is_refused(name: str, template: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"a prompt template of {name} {sentence}, as in") as refused:
        registry.with_prompt_template(registry.get_model_spec(name), template)
    assert "\n" not in str(refused.value)


def test_every_models_own_template_is_valid() -> None:
    for spec in registry.MODELS.values():
        assert registry.with_prompt_template(spec, spec.prompt) == spec
        assert registry.with_prompt_template(spec, None) is spec


def test_what_is_built_keeps_its_prompt(tmp_path: Path, samples: list, capsys: pytest.CaptureFixture) -> None:
    image, question, _ = samples[0]
    image.save(tmp_path / "image.png")
    out, typed = tmp_path / "built", TEMPLATE.replace("\n", r"\n")
    command = ["compress", "llava-shapes/fp16", "--source", SHAPES.name_or_path, "--out", str(out), "--device", "cpu"]
    assert main([*command, "--prompt-template", typed]) == 0
    vlm = checkpoint.load(out, "cpu")
    assert json.loads((out / "recipe.json").read_text())["prompt_template"] == vlm.spec.prompt == TEMPLATE
    wanted = vlm.processor(images=image, text=TEMPLATE.replace("{question}", question), return_tensors="pt")
    assert vlm.encode([image], [question])["input_ids"].tolist() == wanted["input_ids"].tolist()
    asked = ["--image", str(tmp_path / "image.png"), "--question", question, "--max-new-tokens", "1", "--device", "cpu"]
    assert main(["ask", "llava-shapes/fp16", *asked, "--prompt-template", typed]) == 0
    before = capsys.readouterr()
    assert main(["ask", str(out), *asked]) == 0
    after = capsys.readouterr()
    assert before.out.splitlines()[-1] == after.out.strip() and "1 token (cut there: see --max-new-tokens)" in after.err
    saved_again = tmp_path / "again"
    checkpoint.save(vlm, saved_again)
    assert checkpoint.load(saved_again, "cpu").spec == vlm.spec


def test_reports_of_other_prompts_are_of_another_source() -> None:
    recipe = Recipe("llava-shapes")
    own, other = (
        provenance.weights_provenance(recipe, BenchmarkConfig(prompt_template=template))
        for template in (None, TEMPLATE)
    )
    assert own[0] != other[0] and own[1] == other[1] and repr(TEMPLATE) in other[0]
