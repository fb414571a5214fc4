"""Start checkpoints of any size, written without holding the model: see ``docs/checkpoints.md``.

A *model recipe* says what each tensor of a model draws. A *plan* turns it into files, to the byte. The bytes
of any part of a planned file are then made, written, compared or sent, in any order and on any host.
"""

from fanfill.checkpoints.recipe import ModelRecipe
from fanfill.checkpoints.tensors import Part, Source, TensorRecipe

__all__ = ["ModelRecipe", "Part", "Source", "TensorRecipe"]
