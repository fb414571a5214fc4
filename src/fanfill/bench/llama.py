"""The parameters of a 1.1-billion-parameter network of Llama's shape: TinyLlama-1.1B, as torch has them."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["parameters"]

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 22, 2048, 5632, 32_000
HEADS, KEY_VALUE_HEADS = 32, 4
KEY_VALUE = HIDDEN // HEADS * KEY_VALUE_HEADS

LAYER = {
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "self_attn.k_proj.weight": (KEY_VALUE, HIDDEN),
    "self_attn.v_proj.weight": (KEY_VALUE, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
    "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
}


def parameters() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each parameter's name and shape, with weights as (out, in), in the model's order."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        for name, shape in LAYER.items():
            yield f"model.layers.{layer}.{name}", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)
