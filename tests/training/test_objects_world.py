"""llava-objects: what it is trained on, and the shape that compression and servers want."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch

from vlmcomp.data.object_sprites import HELD_OUT, renderings
from vlmcomp.data.object_things import things
from vlmcomp.data.task_registry import get_task
from vlmcomp.training.model_spec import train_tokenizer
from vlmcomp.training.model_specs import TINY_MODELS
from vlmcomp.training.packing import PatchLabelDataset, tokenizer_corpus
from vlmcomp.training.world import OBJECTS, SHAPES

SPEC = TINY_MODELS["llava-objects"]


def test_the_held_out_artist_and_the_scenes_of_the_benchmark_are_never_trained_on() -> None:
    held_out = {sample.load_image.args[0] for sample in get_task("objects-vqa").all_samples}
    assert len(held_out) == 1500
    for step in range(40):
        for sample in (OBJECTS.sample_scene, OBJECTS.sample_tower_scene):
            for seed in (f"train-0-{step}", f"tower-0-{step}"):
                rng = random.Random(seed)
                for scene in (sample(rng) for _ in range(24)):
                    assert scene not in held_out
                    assert HELD_OUT not in {renderings()[t.rendering].role for t in scene.objects}


def test_a_step_is_drawn_from_its_seed_alone() -> None:
    spec = replace(SPEC, plan=replace(SPEC.plan, tower_scenes=4))
    processor = spec.build(train_tokenizer(spec, ["Is there a fox?"]))[1]
    one, two = (PatchLabelDataset(processor, spec.world, spec.plan) for _ in range(2))
    other = PatchLabelDataset(processor, spec.world, replace(spec.plan, seed=1))
    assert one[3].keys() == {"pixel_values", "thing", "center_thing", "center_box"}
    assert all(torch.equal(one[3][name], two[3][name]) for name in one[3])
    assert not torch.equal(one[3]["pixel_values"], other[3]["pixel_values"])
    assert one[3]["pixel_values"].shape == (4, 3, 128, 128) and one[3]["thing"].shape == (4, 64)
    assert int(one[3]["thing"].max()) <= OBJECTS.attributes()["thing"] - 1 == len(things())


def test_other_colors_keep_the_drawing_and_shapes_keep_theirs() -> None:
    rng = random.Random(0)
    image = OBJECTS.draw(OBJECTS.sample_scene(rng), 16)[0]
    assert SHAPES.augment(rng, image) is image
    changed = [OBJECTS.augment(rng, image) for _ in range(100)]
    same = sum(other.tobytes() == image.tobytes() for other in changed)
    assert all(other.size == image.size and other.mode == "RGB" for other in changed) and 50 < same < 90


def test_it_is_small_and_its_widths_suit_every_format() -> None:
    """Multiples of 128 for groups of INT4, several KV groups, and too few neurons to make up for lost ones."""
    tokenizer = train_tokenizer(SPEC, tokenizer_corpus(SPEC))
    model, processor = SPEC.build(tokenizer)
    text, vision = model.config.text_config, model.config.vision_config
    widths = (text.hidden_size, text.intermediate_size, vision.hidden_size, vision.intermediate_size, text.vocab_size)
    assert all(width % 128 == 0 for width in widths)
    assert text.num_key_value_heads == 4 and text.num_attention_heads == 8
    assert text.intermediate_size <= 1.5 * text.hidden_size
    assert 2 * sum(p.numel() for p in model.parameters()) < 15e6
    lengths = [len(processor.tokenizer(f" {name}", add_special_tokens=False).input_ids) for name in things()]
    assert max(lengths) <= 6 and np.mean(lengths) < 1.6
    for name in ("piñata", "🦊 ?", "zebu"):  # any text can be encoded
        assert tokenizer.decode(tokenizer(name).input_ids, skip_special_tokens=True) == name
