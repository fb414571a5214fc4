"""torch's own generators under a block's seed, and back as they were.

torch has one generator a device, for all threads of the process. So a block's own stream is put into it when
the block begins, and the stream that was there comes back when the block ends. Blocks nest: the innermost
one's stream is there, and the outer one's goes on where it was. Of blocks on several threads at once the one
that began last has the generators; when the last of them ends, they are as before the first.

Generators of the CPU and of CUDA devices are governed. A CUDA that comes up inside a block is governed from
then on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

from fanfill.streams import substream

__all__ = ["Governed", "govern", "release"]

_CPU = -1
_lock = threading.RLock()


class Governed:
    """A stream of torch's generators.

    Attributes
    ----------
    seed
        What a generator without a state begins with; None of the stream outside all blocks.
    states
        Each generator's state, by the number of its device; None while the generators themselves have it.
    """

    def __init__(self, seed: int | None) -> None:
        # Hashed: seed 0 is not what torch.manual_seed(0) gives, and each bit counts, although torch's
        # generator of the CPU reads 32 of the 64.
        self.seed = None if seed is None else substream(f"torch.Generator {seed}")
        self.states: dict[int, torch.Tensor] | None = None if seed is None else {}


_outside = Governed(None)
_current = _outside
_open: list[Governed] = []
_awaits_cuda = False


def govern(stream: Governed) -> None:
    """Give the generators to a block that begins."""
    global _awaits_cuda
    with _lock:
        if not _awaits_cuda and torch.backends.cuda.is_built():
            _awaits_cuda = True
            if not torch.cuda.is_initialized():
                torch.cuda._lazy_call(_cuda_comes_up)
        _open.append(stream)
        _switch(stream)


def release(stream: Governed) -> None:
    """Take the generators from a block that ends."""
    with _lock:
        last = len(_open) - 1 - _open[::-1].index(stream)
        del _open[last]
        _switch(_open[-1] if _open else _outside)


def _switch(to: Governed) -> None:
    """Keep the current stream's states and load those of another.

    A signal handler may open and end a block between any two of these lines. So the stream whose states are
    None is the one that the generators have, whatever `_current` says, and what a handler has done already is
    not done again.
    """
    global _current
    current = _current
    if to is current:
        return
    found = {number: generator.get_state() for number, generator in _generators()}
    if _current is current and current.states is None:
        current.states = found
    states = to.states
    if states is not None:
        for number, generator in _generators():
            state = states.get(number)
            if state is not None:
                generator.set_state(state)
            elif to.seed is not None:
                generator.manual_seed(to.seed)
    _current = to
    to.states = None


def _generators() -> Iterator[tuple[int, torch.Generator]]:
    yield _CPU, torch.default_generator
    # torch refuses to read a generator of CUDA while a graph is captured; such a block leaves them alone.
    if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
        yield from enumerate(torch.cuda.default_generators)


def _cuda_comes_up() -> None:
    """Called by torch when CUDA is first used; the seeds that it has been given are queued behind this."""
    torch.cuda._queued_calls.append((_cuda_came_up, []))


def _cuda_came_up() -> None:
    with _lock:
        if _current.seed is None or _outside.states is None:
            return
        for number, generator in enumerate(torch.cuda.default_generators):
            _outside.states[number] = generator.get_state()
            generator.manual_seed(_current.seed)
