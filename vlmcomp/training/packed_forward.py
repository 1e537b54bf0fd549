"""Forward pass over packed sequences: image features, token embeddings and decoder, for every family."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from vlmcomp.models import architecture
from vlmcomp.training.model_spec import TinyModelSpec
from vlmcomp.training.packing import PromptPrefix, attention_mask, process_images

Batch = dict[str, torch.Tensor]


def encode_images(model: PreTrainedModel, pixels: Batch, num_patches: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the vision tower.

    A tower with smaller patches than ``num_patches`` that it merges later has several of them side by side in a row.

    Args:
        model: the whole VLM.
        pixels: output of the image processor for B images.
        num_patches: labeled patches of an image.

    Returns:
        The tower's features (B, num_patches, d) without [CLS], and the embeddings of the image tokens (B, T, hidden).
    """
    output = model.get_image_features(**pixels, return_dict=True)
    image = output.pooler_output
    image = image if isinstance(image, torch.Tensor) else torch.stack(list(image))
    hidden = output.last_hidden_state
    features = hidden.reshape(len(image), -1, hidden.shape[-1])
    features = features[:, features.shape[1] % num_patches :]
    return features.reshape(len(image), num_patches, -1), image


def embed_tokens(model: PreTrainedModel, image: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """(B, L, hidden) token embeddings; every run of image tokens gets the embeddings ``image`` (B, T, hidden)."""
    embeds = model.get_input_embeddings()(input_ids)
    is_image = input_ids == model.config.image_token_id
    index = (is_image.cumsum(1) - 1) % image.shape[1]
    image_embeds = image.to(embeds.dtype).gather(1, index[..., None].expand(-1, -1, image.shape[2]))
    return torch.where(is_image[..., None], image_embeds, embeds)


def forward_decoder(model: PreTrainedModel, image: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(B, L, hidden) last hidden states over packed sequences."""
    positions = batch["position_ids"].transpose(0, 1)  # (k, B, L)
    decoder = model.get_submodule(architecture.get_architecture(model).decoder)
    return decoder(
        inputs_embeds=embed_tokens(model, image, batch["input_ids"]),
        attention_mask=attention_mask(batch["segment"], batch["prefix"]),
        position_ids=positions if len(positions) > 1 else positions[0],
        use_cache=False,
    ).last_hidden_state


def make_prompt_prefix(model: PreTrainedModel, processor: ProcessorMixin, spec: TinyModelSpec) -> PromptPrefix:
    """The tokens before every question, with the positions that the model's own code gives them."""
    image = process_images(processor, [Image.new("RGB", (spec.world.canvas, spec.world.canvas))])
    with torch.no_grad():
        num_image_tokens = encode_images(model, image, 1)[1].shape[1]
    image_token_id = model.config.image_token_id
    ids: list[int] = []
    for token_id in processor.tokenizer(spec.prompt_template.prefix, add_special_tokens=False).input_ids:
        ids += [token_id] * (num_image_tokens if token_id == image_token_id else 1)
    if hasattr(getattr(model, "model", None), "get_rope_index"):
        input_ids = torch.tensor([ids])
        positions, _ = model.model.get_rope_index(
            input_ids, (input_ids == image_token_id).int(), image["image_grid_thw"]
        )
        return PromptPrefix(ids, positions[:, 0].numpy(), int(positions.max()) + 1)
    positions = np.arange(len(ids))[None] + spec.prompt_template.first_position
    return PromptPrefix(ids, positions, int(positions.max()) + 1)
