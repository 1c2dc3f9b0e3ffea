"""Models of Hugging Face transformers, built from configurations, differentiate twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from few_shot import Compare

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16}
TEXT = {**SMALL, "vocab_size": 50, "intermediate_size": 32}


def bert() -> transformers.PreTrainedModel:
    config = transformers.BertConfig(**TEXT, max_position_embeddings=16)
    return transformers.BertForMaskedLM._from_config(config, attn_implementation="sdpa")


def gpt2() -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(n_layer=2, n_head=4, n_embd=16, vocab_size=50, n_positions=16)
    return transformers.GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")


def llama() -> transformers.PreTrainedModel:
    """Rotary positions and grouped queries."""
    config = transformers.LlamaConfig(**TEXT, num_key_value_heads=2, max_position_embeddings=16)
    return transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def falcon() -> transformers.PreTrainedModel:
    """ALiBi, which the model adds to its padding mask of the smallest finite numbers."""
    config = transformers.FalconConfig(**SMALL, vocab_size=50, alibi=True, bias=True)
    return transformers.FalconForCausalLM._from_config(config, attn_implementation="sdpa")


# First token and end of the tokens of the second text.
PADDING = {"none": (0, 7), "right": (0, 5), "left": (2, 7)}


@pytest.mark.parametrize("make", [bert, gpt2, llama, falcon])
@pytest.mark.parametrize("padding", PADDING)
def test_differentiates_twice(
    make: Callable[[], transformers.PreTrainedModel], padding: str, compare: Compare
) -> None:
    """Logits' loss, its gradients and those of their squared norm, a gradient penalty."""
    tokens = torch.randint(50, (2, 7), generator=torch.Generator().manual_seed(0))
    start, end = PADDING[padding]
    mask = torch.ones_like(tokens)
    mask[1] = 0
    mask[1, start:end] = 1
    labels = tokens.where(mask > 0, -100)

    def gradients(dtype: torch.dtype) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = make().eval().to(dtype)
        wanted = [p for p in model.parameters() if p.requires_grad]
        loss = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
        first = torch.autograd.grad(loss, wanted, create_graph=True)
        norm = torch.stack([gradient.square().sum() for gradient in first]).sum()
        return [*first, *torch.autograd.grad(norm, wanted)]

    compare(gradients)
