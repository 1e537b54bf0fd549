"""What cannot be compressed is refused by its config alone, in one sentence, before weights are read or downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.support import hub_server
from tests.support.edited_weights import edited_config, edited_copy
from tests.support.families import FAMILIES, write
from tests.support.layouts import one_file, pytorch_bin
from vlmcomp.compression import checkpoint
from vlmcomp.compression.pipeline import compress
from vlmcomp.models import architecture, download, registry
from vlmcomp.models.source_check import check_source
from vlmcomp.recipe import Recipe
from vlmcomp.runtime.engine import Engine

NAME = "llava-1.5-7b"
ORIGINAL = registry.get_model_spec(NAME).source
QUANTIZED = {
    "bitsandbytes": {"load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "torchao": {"quant_method": "torchao"},
    "fp8": {"quant_method": "fp8"},
    "hqq": {"quant_method": "hqq"},
    "quanto": {"quant_method": "quanto"},
    "modelopt": {"quant_algo": "modelopt"},
    "4 bits": {"group_size": 64, "bits": 4},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(NAME, tmp_path_factory.mktemp("tiny"))


def _refusal(folder: Path, name: str = NAME, repo: str = "some/source") -> str:
    """The sentence with which a folder that has no weights (yet) is refused as a source of the model ``name``."""
    files = {file.name for file in folder.iterdir()} - {"model.safetensors"}
    with pytest.raises(ValueError) as refused:
        check_source(registry.get_model_spec(name), repo, files, folder.joinpath)
    text = str(refused.value)
    assert text.startswith(repo) and "\n" not in text
    return text


def _configs(tiny: Path, folder: Path, **settings: object) -> Path:
    """A folder with the config of ``tiny`` alone, and ``settings`` in it."""
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    return edited_config(folder, **settings)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config", "text_config", "quantization"])
@pytest.mark.parametrize("method", QUANTIZED)
def test_a_quantized_source_is_refused(method: str, key: str, tiny: Path, tmp_path: Path) -> None:
    settings: dict = QUANTIZED[method]
    if key == "text_config":
        settings = json.loads((tiny / "config.json").read_text())[key] | {"quantization_config": settings}
    text = _refusal(_configs(tiny, tmp_path, **{key: settings}))
    assert f"quantized already ({method})" in text and ORIGINAL in text


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_a_description_beside_the_config_is_enough(file: str, tiny: Path, tmp_path: Path) -> None:
    (_configs(tiny, tmp_path) / file).write_text("{}")
    assert f"quantized already ({file})" in _refusal(tmp_path)


def test_an_empty_description_is_none(tiny: Path, tmp_path: Path) -> None:
    folder = _configs(tiny, tmp_path, quantization_config=None)
    check_source(registry.get_model_spec(NAME), "some/source", {"config.json"}, folder.joinpath)


PACKED = [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2, torch.int16, torch.int32, torch.int64]
PACKED += [torch.bool, torch.complex64]


@pytest.mark.parametrize("steps", [one_file, pytorch_bin])
@pytest.mark.parametrize("dtype", PACKED)
def test_quantized_weights_without_a_description_are_refused(
    dtype: torch.dtype, steps: Callable[[Path], None], tiny: Path, tmp_path: Path
) -> None:
    def quantize(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {name: weight.to(dtype) for name, weight in tensors.items() if "up_proj" in name}

    folder = edited_copy(tiny, tmp_path / "edited", quantize)
    steps(folder)
    with pytest.raises(ValueError, match=r"tensors \(.*up_proj.*\) are stored as \w+: give the weights before"):
        compress(Recipe.parse(f"{NAME}/fp16"), device="cpu", source=str(folder))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [one_file, pytorch_bin])
def test_weights_of_other_widths_load(
    dtype: torch.dtype, steps: Callable[[Path], None], tiny: Path, tmp_path: Path
) -> None:
    def cast(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {name: weight.to(dtype) for name, weight in tensors.items()}
        tensors["model.vision_tower.embeddings.position_ids"] = torch.arange(4)  # of older versions

    folder = edited_copy(tiny, tmp_path / "edited", cast)
    steps(folder)
    assert compress(Recipe(NAME), device="cpu", source=str(folder))


def test_quantized_weights_in_a_checkpoint_that_says_otherwise_are_refused(tiny: Path, tmp_path: Path) -> None:
    checkpoint.save(compress(Recipe(NAME), device="cpu", source=str(tiny)), tmp_path / "built")

    def quantize(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {name: weight.to(torch.int8) for name, weight in tensors.items() if "up_proj" in name}

    with pytest.raises(ValueError, match="are stored as I8"):
        checkpoint.load(edited_copy(tmp_path / "built", tmp_path / "edited", quantize), "cpu")


@pytest.mark.parametrize("part", ["config", "text_config", "vision_config"])
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "half-ish", "auto", "torch.float16", 3, {}])
def test_a_dtype_that_no_weights_have_is_named(dtype: object, part: str, tiny: Path, tmp_path: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    settings = {"dtype": dtype} if part == "config" else {part: config[part] | {"torch_dtype": dtype}}
    assert f"config.json says the dtype {dtype!r}: write that of the weights" in _refusal(
        _configs(tiny, tmp_path, **settings)
    )


@pytest.mark.parametrize("value", [5, "int8", [1], True, False, ""])
@pytest.mark.parametrize("key", ["quantization_config", "quantization", "text_config"])
def test_a_quantization_that_is_no_object_is_named(key: str, value: object, tiny: Path, tmp_path: Path) -> None:
    settings = {key: value}
    if key == "text_config":
        settings = {key: json.loads((tiny / "config.json").read_text())[key] | {"quantization_config": value}}
    assert f"config.json has {value!r} as quantization" in _refusal(_configs(tiny, tmp_path, **settings))


@pytest.mark.parametrize("content", ["", '{"recipe": "llava-1.5-7b/glu30', "<html>"])
@pytest.mark.parametrize("file", ["config.json", checkpoint.FILE])
def test_a_damaged_description_is_named(file: str, content: str, tiny: Path, tmp_path: Path) -> None:
    (_configs(tiny, tmp_path) / file).write_text(content)
    assert f"cannot be used: {file} is " in _refusal(tmp_path)


@pytest.mark.parametrize("precision", ["int8", "int4", "int8-torchao", "int4-torchao", "w8a16", "w4a16"])
def test_what_transformers_has_quantized_is_refused(precision: str, tiny: Path, tmp_path: Path) -> None:
    """Our checkpoints without their recipe are such folders."""
    vlm = compress(Recipe.parse(f"{NAME}/{precision}"), device="cpu", source=str(tiny), calibration_data="shapes")
    checkpoint.save(vlm, tmp_path / "out")
    assert f"is {NAME}/{precision}, which is compressed already" in _refusal(tmp_path / "out")
    assert checkpoint.load(tmp_path / "out", "cpu").recipe == vlm.recipe
    (tmp_path / "out" / checkpoint.FILE).unlink()
    assert "is quantized already" in _refusal(tmp_path / "out")


def test_a_pruned_checkpoint_is_no_source_and_a_dense_one_is(tiny: Path, samples: list, tmp_path: Path) -> None:
    for steps in ("glu30+fp16", "fp16"):
        vlm = compress(Recipe.parse(f"{NAME}/{steps}"), device="cpu", source=str(tiny), calibration_data=samples)
        checkpoint.save(vlm, tmp_path / steps)
    assert "glu30+fp16, which is compressed already: ask or load it" in _refusal(tmp_path / "glu30+fp16")
    assert compress(Recipe.parse(f"{NAME}/int8"), device="cpu", source=str(tmp_path / "fp16"))


@pytest.mark.parametrize("beside", [True, False])
def test_an_adapter_is_refused(beside: bool, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    if beside:
        _configs(tiny, tmp_path)
    assert "has an adapter (adapter_config.json), which is not applied: merge it" in _refusal(tmp_path)


def test_an_adapter_in_a_checkpoint_is_refused(tiny: Path, tmp_path: Path) -> None:
    checkpoint.save(compress(Recipe(NAME), device="cpu", source=str(tiny)), tmp_path / "out")
    (tmp_path / "out" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is damaged: adapter_config\.json belongs to no checkpoint"):
        checkpoint.load(tmp_path / "out", "cpu")


def test_a_folder_of_gguf_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "llava-Q4_K_M.gguf").write_bytes(b"GGUF")
    assert "quantized already (GGUF)" in _refusal(tmp_path)


def _with_decoder(kind: str, family: str, folder: Path) -> Path:
    """A folder with the config of ``family`` whose decoder is a tiny one of the type ``kind``."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
    AutoConfig.for_model(family).save_pretrained(folder)
    return edited_config(folder, text_config=AutoConfig.for_model(kind, **sizes).to_dict())


@pytest.mark.parametrize(
    "name, kind",
    [
        ("blip2-opt-2.7b", "t5"),
        ("blip2-opt-2.7b", "llama"),
        (NAME, "phi3"),
        (NAME, "phi"),
        (NAME, "gemma2"),
        (NAME, "mixtral"),
        (NAME, "opt"),
        (NAME, "gpt_neox"),
        ("paligemma-3b", "llama"),
        ("paligemma-3b", "gemma3_text"),
        ("smolvlm-256m", "mistral"),
    ],
)
def test_another_decoder_under_the_familys_name_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    family = registry.get_model_spec(name).family
    assert f"its decoder is of the type '{kind}', which must be" in _refusal(
        _with_decoder(kind, family, tmp_path), name
    )


def test_a_decoder_that_transformers_does_not_know_is_refused(tiny: Path, tmp_path: Path) -> None:
    assert "'phi-msft'" in _refusal(_configs(tiny, tmp_path, text_config={"model_type": "phi-msft"}))


def test_a_config_that_describes_no_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    text = json.loads((tiny / "config.json").read_text())["text_config"] | {"hidden_size": "many"}
    assert "from which transformers builds no model" in _refusal(_configs(tiny, tmp_path, text_config=text))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_module_that_compression_needs_is_checked(name: str, tmp_path: Path) -> None:
    """A model without it is refused; the model as it is, and its published config, are not."""
    folder = write(name, tmp_path)
    check_source(registry.get_model_spec(name), name, {"config.json"}, folder.joinpath)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    assert not architecture.unsupported_reason(model)
    for path, _ in list(architecture.decoder_linears(model)):
        parent, _, child = path.rpartition(".")
        module = getattr(model.get_submodule(parent), child)
        delattr(model.get_submodule(parent), child)
        assert path in architecture.unsupported_reason(model)
        setattr(model.get_submodule(parent), child, module)


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
@pytest.mark.parametrize("steps", ["fp16", "heads25+glu30+int8", "vis50+int4"])
def test_other_decoders_of_llava_are_compressed(
    kind: str, steps: str, tiny: Path, samples: list, tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(tiny)
    shared = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    shared += ("num_key_value_heads", "bos_token_id", "eos_token_id", "pad_token_id", "rms_norm_eps")
    text = AutoConfig.for_model(kind, **{name: getattr(config.text_config, name) for name in shared})
    config.text_config = text
    torch.manual_seed(0)
    source = tmp_path / "source"
    AutoModelForImageTextToText.from_config(config).half().save_pretrained(source)
    for file in tiny.iterdir():
        if file.suffix == ".json" and not (source / file.name).exists() and "index" not in file.name:
            (source / file.name).write_bytes(file.read_bytes())
    vlm = compress(Recipe.parse(f"{NAME}/{steps}"), device="cpu", source=str(source), calibration_data=samples)
    checkpoint.save(vlm, tmp_path / "out")
    image, question, _ = samples[0]
    loaded = checkpoint.load(tmp_path / "out", "cpu")
    assert Engine(vlm).generate(image, question, 4, 4).text == Engine(loaded).generate(image, question, 4, 4).text


REFUSED_ON_THE_HUB: dict[str, Callable[[Path], object]] = {
    "quantized already": lambda folder: edited_config(folder, quantization_config=QUANTIZED["gptq"]),
    "quantized already (quant_config.json)": lambda folder: (folder / "quant_config.json").write_text("{}"),
    "decoder is of the type": lambda folder: edited_config(folder, text_config={"model_type": "phi3"}),
    "has an adapter": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "compressed already": lambda folder: (folder / "recipe.json").write_text('{"recipe": "llava-1.5-7b/glu30+fp16"}'),
}


@pytest.mark.parametrize("sentence", REFUSED_ON_THE_HUB)
def test_on_the_hub_no_weights_are_downloaded(sentence: str, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    repository = edited_copy(tiny, tmp_path / "repository", lambda tensors: None)
    REFUSED_ON_THE_HUB[sentence](repository)
    with hub_server.serve("some/source", repository) as hub:
        hub_server.connect(hub, tmp_path / "cache", monkeypatch)
        with pytest.raises(ValueError) as refused:
            download.download_weights(registry.get_model_spec(NAME), "some/source", lambda text, fraction: None)
        assert sentence in str(refused.value)
        assert set(hub.asked) <= {"config.json", "recipe.json"}
