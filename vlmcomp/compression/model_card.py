"""The model card of a checkpoint: README.md in the format of the Hugging Face Hub."""

from __future__ import annotations

from vlmcomp.models.vlm import VLM
from vlmcomp.recipe import precision_title
from vlmcomp.results.provenance import __version__

FILE = "README.md"
# Identifiers of the Hub. The others are "other" there, with a name and a link.
_LICENSE_IDS = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "Llama 2 Community License": "llama2",
    "Gemma Terms of Use": "gemma",
}


def render(vlm: VLM, custom_loading_reason: str) -> str:
    """What the checkpoint is, where its weights come from and under which license, and how it is loaded.

    Args:
        vlm: the model that is saved.
        custom_loading_reason: why transformers alone does not load it; empty if it does.
    """
    recipe = vlm.recipe
    rows = [
        ("Recipe", f"`{recipe}`: {recipe.label}"),
        ("Original weights", _origin(vlm)),
        ("License", _license(vlm)),
        ("Removed", "; ".join(_removed(vlm)) or "nothing"),
        ("Precision", f"{precision_title(recipe.precision)}: {vlm.storage_dtype} ({vlm.quantization_backend})"),
        ("Calibrated on", _calibration(vlm)),
        ("Prompt", f"`{vlm.spec.prompt!r}`"),
    ]
    table = "\n".join(f"| {name} | {text.replace('|', '&#124;')} |" for name, text in rows)
    return f"""{_front_matter(vlm)}
# {recipe}

{vlm.spec.title}, compressed by vlmcomp {__version__}.

| | |
| :-- | :-- |
{table}

{_loading(custom_loading_reason)}
What this costs in quality, and what it saves, was not measured when this was written: `vlmcomp bench {recipe}` does.
"""


def _front_matter(vlm: VLM) -> str:
    lines = ["---"]
    source = vlm.source or vlm.spec.source
    if vlm.source is None:
        lines += _license_lines(vlm)
    if "/" in source and not (vlm.spec.bundled and vlm.source is None):
        lines.append(f"base_model: {source}")
        if vlm.recipe.precision != "fp16":
            lines.append("base_model_relation: quantized")
    lines += ["library_name: transformers", "pipeline_tag: image-text-to-text", "tags:", "  - vlmcomp"]
    lines += [f"  - {tag}" for tag in (*map(str, vlm.recipe.steps), vlm.recipe.precision)]
    return "\n".join([*lines, "---", ""])


def _license_lines(vlm: VLM) -> list[str]:
    known = _LICENSE_IDS.get(vlm.spec.license)
    if known:
        return [f"license: {known}"]
    name = vlm.spec.license.lower().replace(" ", "-")
    link = f"https://huggingface.co/{vlm.spec.source}/blob/main/LICENSE"
    return ["license: other", f"license_name: {name}", f"license_link: {link}"]


def _origin(vlm: VLM) -> str:
    if vlm.source is None and vlm.spec.bundled:
        return f"{vlm.spec.name}, which comes with vlmcomp"
    source = vlm.source or vlm.spec.source
    name = f"[{source}](https://huggingface.co/{source})" if "/" in source else f"the folder `{source}`"
    return f"{name}, commit {vlm.revision}" if vlm.revision else name


def _license(vlm: VLM) -> str:
    """The license of the original weights, which these are derived from."""
    if vlm.source is not None:
        return f"that of {vlm.source}, of which this is a derivative: see there before you share it"
    if vlm.spec.license in ("Apache-2.0", "MIT"):
        return f"{vlm.spec.license}, that of the original weights"
    return f"{vlm.spec.license}, that of the original weights: its conditions hold for this copy too"


def _removed(vlm: VLM) -> list[str]:
    return [
        f"{p.step}: kept {p.kept} of {p.of} {p.unit}, {p.real_percent:.1f} % removed (by {p.score})" for p in vlm.pruned
    ]


def _calibration(vlm: VLM) -> str:
    """The data of pruning; those of rounding alone are part of the backend's description."""
    found = list(dict.fromkeys(p.calibration for p in vlm.pruned))
    if found:
        return "; ".join(found)
    return "see Precision" if vlm.recipe.needs_calibration else "nothing: the recipe needs no data"


def _loading(custom_loading_reason: str) -> str:
    ours = """```python
import vlmcomp

model = vlmcomp.load("FOLDER_OR_REPOSITORY")
print(model.ask("photo.png", "What is in the picture?").text)
```
"""
    if custom_loading_reason:
        return f"Load it with vlmcomp, since {custom_loading_reason}:\n\n{ours}"
    stock = 'AutoModelForImageTextToText.from_pretrained("FOLDER_OR_REPOSITORY")'
    return f"Load it with vlmcomp, or with transformers as `{stock}`:\n\n{ours}"
