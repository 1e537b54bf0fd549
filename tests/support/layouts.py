"""Tiny checkpoints rewritten into the layouts of files of real repositories, which older transformers saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Step = Callable[[Path], None]
_OLD_TOKENIZERS = {  # of the families with byte-level BPE, by the class of the processor
    "Blip2Processor": "GPT2Tokenizer",
    "Idefics3Processor": "GPT2Tokenizer",
    "Qwen2VLProcessor": "Qwen2Tokenizer",
    "Qwen2_5_VLProcessor": "Qwen2Tokenizer",
    "Qwen3VLProcessor": "Qwen2Tokenizer",
}


def _edit(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()) if file.exists() else {})))


def preprocessor_config(folder: Path) -> None:
    """Settings of the image processor are in a file of their own, as before transformers 5."""
    settings = json.loads((folder / "processor_config.json").read_text())
    images = settings.pop("image_processor") | {"processor_class": settings["processor_class"]}
    if images["image_processor_type"] == "Qwen2VLImageProcessor":
        size = images.pop("size")
        images |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").write_text(json.dumps(settings))


def no_processor_config(folder: Path) -> None:
    (folder / "processor_config.json").unlink()


def no_facts(folder: Path) -> None:
    """What only newer processors state besides the model's config is missing."""
    names = ("image_seq_length", "patch_size", "temporal_patch_size", "merge_size", "image_processor_type")
    _edit(folder / "preprocessor_config.json", lambda c: {k: v for k, v in c.items() if k not in names})
    if "image_token_index" in (text := (folder / "config.json").read_text()) and '"blip-2"' in text:
        _edit(folder / "config.json", lambda c: {k: v for k, v in c.items() if k != "image_token_index"})


def no_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()


def no_image_token(folder: Path) -> None:
    """The tokenizer does not know the image token; its id is a reserved one."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace('"<image>"', '"<reserved>"'))


def fast_image_processor(folder: Path) -> None:
    """As Qwen3-VL's repositories name the class, with the video processor beside it."""
    _edit(
        folder / "preprocessor_config.json", lambda c: c | {"image_processor_type": c["image_processor_type"] + "Fast"}
    )
    video = json.loads((folder / "preprocessor_config.json").read_text())
    video |= {"video_processor_type": "Qwen3VLVideoProcessor"}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))


def saved_with_torchvision(folder: Path) -> None:
    """As transformers 5 saves a processor that has its video processor."""
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 3136, "longest_edge": 12845056}}
    _edit(folder / "processor_config.json", lambda c: c | {"video_processor": video})


def old_tokenizer(folder: Path) -> None:
    """tokenizer_config.json, special_tokens_map.json and added_tokens.json as transformers 4 wrote them."""
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]

    def change(config: dict[str, Any]) -> dict[str, Any]:
        special = config.pop("extra_special_tokens", [])
        names = {name: config[name] for name in ("bos_token", "eos_token", "pad_token") if config.get(name)}
        (folder / "special_tokens_map.json").write_text(json.dumps(names | {"additional_special_tokens": special}))
        del config["backend"], config["padding_side"]
        return config | {
            "tokenizer_class": _OLD_TOKENIZERS.get(config["processor_class"], "PreTrainedTokenizerFast"),
            "add_bos_token": "bos_token" in names,
            "additional_special_tokens": special,
            "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added},
        }

    _edit(folder / "tokenizer_config.json", change)
    (folder / "added_tokens.json").write_text(json.dumps({t["content"]: t["id"] for t in added}))


def vocab_and_merges(folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = (" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def no_tokenizer_json(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def chat_template_json(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    template = file.read_text() if file.exists() else "{{ messages[0].content }}"
    file.unlink(missing_ok=True)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))


def chat_template_in_tokenizer(folder: Path) -> None:
    """Several by name, as some repositories have them."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    templates = [{"name": name, "template": "{{ messages[0].content }}"} for name in ("default", "tool_use")]
    _edit(folder / "tokenizer_config.json", lambda c: c | {"chat_template": templates})


def old_config(folder: Path) -> None:
    """config.json of transformers 4: ``torch_dtype``, and Qwen2-VL's text settings at the top level."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.41.0"
        if config["model_type"] in ("qwen2_vl", "qwen2_5_vl"):
            text = {
                k: v for k, v in config.pop("text_config").items() if k not in ("model_type", "layer_types", "dtype")
            }
            rope = text.pop("rope_parameters")
            text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
            config = text | {"rope_theta": rope["rope_theta"]} | config
        return config

    _edit(folder / "config.json", change)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors; their files are removed."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= {name: tensor.clone() for name, tensor in load_file(file).items()}
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    return tensors


def one_file(folder: Path) -> None:
    save_file(_weights(folder), folder / "model.safetensors", {"format": "pt"})


def pytorch_bin(folder: Path) -> None:
    """Two shards with an index."""
    tensors = _weights(folder)
    files = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    shards: list[dict[str, torch.Tensor]] = [{}, {}]
    for number, (name, tensor) in enumerate(tensors.items()):
        shards[number % 2][name] = tensor
    for file, shard in zip(files, shards):
        torch.save(shard, folder / file)
    index = {name: file for file, shard in zip(files, shards) for name in shard}
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    (folder / "pytorch_model.bin.index.json").write_text(text)


_HUB: dict[str, tuple[Step, ...]] = {  # the files of the repositories on the Hub, by the start of the model's name
    "llava": (preprocessor_config, old_tokenizer, chat_template_json, old_config),
    "blip2": (preprocessor_config, old_tokenizer, vocab_and_merges, old_config),
    "paligemma": (preprocessor_config, no_processor_config, old_tokenizer, old_config),
    "qwen2": (
        *(preprocessor_config, no_processor_config, old_tokenizer, vocab_and_merges, chat_template_json),
        *(old_config,),
    ),
    "qwen3": (
        *(preprocessor_config, no_processor_config, fast_image_processor, old_tokenizer, vocab_and_merges),
        chat_template_json,
    ),
    "smolvlm": (preprocessor_config, old_tokenizer, vocab_and_merges, chat_template_json, old_config, one_file),
}


def layouts(name: str) -> dict[str, tuple[Step, ...]]:
    """Layouts that the files of the model ``name`` come in, by a description: steps that rewrite a folder into it."""
    hub = next(steps for start, steps in _HUB.items() if name.startswith(start))
    found = {
        "on the Hub": hub,
        "preprocessor_config.json alone": (preprocessor_config, no_processor_config),
        "facts in config.json alone": (preprocessor_config, no_facts, no_processor_config, no_generation_config),
        "templates in tokenizer_config.json": (preprocessor_config, old_tokenizer, chat_template_in_tokenizer),
        "pytorch_model.bin": (pytorch_bin,),
    }
    if vocab_and_merges in hub:
        found["vocab.json and merges.txt"] = (*hub, no_tokenizer_json)
    if name.startswith("qwen"):
        found["saved with torchvision"] = (saved_with_torchvision,)
    return found
