"""A torch module of Llama's shape, without a forward pass: what initialising a model is timed with."""

from __future__ import annotations

from torch import nn

from fanfill.bench import llama


class Net(nn.Module):
    """The modules whose parameters `llama.parameters` lists, initialised by torch unless they are on meta."""

    def __init__(self, size: llama.Size) -> None:
        super().__init__()
        for name, shape in llama.parameters(size):
            *path, _ = name.split(".")
            parent: nn.Module = self
            for part in path[:-1]:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(path[-1], _module(path[-1], shape))


def _module(name: str, shape: tuple[int, ...]) -> nn.Module:
    if name == "embed_tokens":
        return nn.Embedding(*shape)
    if len(shape) == 1:
        return nn.RMSNorm(shape[0])
    return nn.Linear(shape[1], shape[0], bias=False)
