"""The parameters of networks of Llama's shape, as torch has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["LLAMA_8B", "TINY", "Size", "parameters"]


class Size(NamedTuple):
    """How large a network is: its layers, and the widths of its matrices."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    key_value: int


# TinyLlama-1.1B, of 32 heads and 4 for keys and values; Llama-3-8B, of 32 and 8.
TINY = Size(layers=22, hidden=2048, intermediate=5632, vocabulary=32_000, key_value=256)
LLAMA_8B = Size(layers=32, hidden=4096, intermediate=14_336, vocabulary=128_256, key_value=1024)


def parameters(size: Size = TINY) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each parameter's name and shape, with weights as (out, in), in the model's order."""
    layers, hidden, intermediate, vocabulary, key_value = size
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for number in range(layers):
        for name, shape in layer.items():
            yield f"model.layers.{number}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)
