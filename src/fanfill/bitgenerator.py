"""fanfill's words for everything in NumPy and SciPy that takes a ``numpy.random.Generator``.

Machine code hands the words out (``fanfill_kernels.compile.callbacks``): no Python runs when NumPy asks for
one. Only the words are the contract's: what NumPy makes of them, its ``normal`` for example, is NumPy's own.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random.bit_generator import BitGenerator, ISpawnableSeedSequence

from fanfill.arguments import LARGEST_TENSOR, integer
from fanfill.backends import resolve, select_backend
from fanfill.errors import BackendUnavailableError
from fanfill.fill import words
from fanfill.messages import shown
from fanfill.streams import key_of
from fanfill_kernels import STREAM_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import DTypeLike, NDArray

    from fanfill_kernels.compile import callbacks

__all__ = ["Philox", "Stream"]

_NAME = "fanfill.Philox"
_COUNTER = 2**64


class _BitGen(ctypes.Structure):
    """NumPy's ``bitgen_t``."""

    _fields_ = [
        (name, ctypes.c_void_p) for name in ("state", "next_uint64", "next_uint32", "next_double", "next_raw")
    ]


class Stream(ISpawnableSeedSequence):
    """A seed and a name, where NumPy has a ``SeedSequence``.

    Its children have the names ``f"{name}#{k}"``; those of an integer name, ``f"0x{name:016x}#{k}"``.
    """

    def __init__(self, seed: int, name: str | int, spawn_key: tuple[int, ...] = ()) -> None:
        self.key = key_of(seed, name)
        self.seed = int(seed)
        self.name = name if isinstance(name, str) else int(name)
        self.spawn_key = spawn_key
        self.n_children_spawned = 0

    @property
    def pool(self) -> NDArray[np.uint32]:
        """The four words of the key: all that the words depend on, beside their number."""
        return np.array(self.key, np.uint32)

    @property
    def state(self) -> dict[str, Any]:
        """What this was made from, and how many children it has."""
        return {
            "seed": self.seed,
            "name": self.name,
            "spawn_key": self.spawn_key,
            "n_children_spawned": self.n_children_spawned,
        }

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[Any]:
        """Words of a substream of their own, ``f"{name}#state"``, to seed another library's generator."""
        kind = np.dtype(dtype)
        if kind not in (np.uint32, np.uint64):
            raise ValueError(f"dtype: expected uint32 or uint64; got {shown(dtype)}")
        count = integer(n_words, "n_words", 0, 2**48, "[0, 2**48)")
        made = np.empty(count * kind.itemsize // 4, np.uint32)
        return words(made, seed=self.seed, name=self._below("state")).view(kind)

    def spawn(self, n_children: int) -> list[Stream]:
        """Children that no earlier call has made."""
        first = self.n_children_spawned
        self.n_children_spawned += integer(n_children, "n_children", 0, 2**31, "[0, 2**31)")
        return [
            type(self)(self.seed, self._below(k), (*self.spawn_key, k))
            for k in range(first, self.n_children_spawned)
        ]

    def _below(self, what: object) -> str:
        # The integer 5 and the text "5" are two names, and their children must be, too.
        return f"{self.name if isinstance(self.name, str) else f'0x{self.name:016x}'}#{what}"


class Philox(BitGenerator):
    """The words of `fanfill.words` as a NumPy BitGenerator.

    ``numpy.random.Generator(fanfill.Philox(0, "augmentation"))`` takes the words of seed 0 and that name, one
    after the other: one for 32 bits, two for 64 bits or a double, the lower half first. So ``random_raw(n)``
    is ``fanfill.words`` of 2 n words, and what a generator will give depends on seed, name and position
    alone. It never takes a seed from the system, as NumPy's own do when they get none.

    It is no way to the values of `fanfill.fill`: NumPy makes its normals, and even its uniforms, otherwise.

    Parameters
    ----------
    seed
        An integer in [0, 2^64). NumPy's ``spawn`` gives a `Stream` here.
    name
        The substream: a string, or an integer in [0, 2^64).
    start
        The number of the first word, in [0, 2^63).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    BackendUnavailableError
        If compiled code cannot be used here, or FANFILL_BACKEND forbids it.

    Notes
    -----
    ``state`` holds seed, substream and position, and the stream's version, so that an old state does not go
    on with other words. ``spawn(n)`` gives children named after their parent, as `Stream` says, whatever the
    state was set to. An integer name is its substream, so ``Philox(1, 0).jumped(4)`` is ``Philox(1, 4)``.

    Past word 2^63, after centuries, its words are those that `fanfill.words` would have if it went on.

    Examples
    --------
    >>> import numpy as np, fanfill as ff
    >>> rng = np.random.Generator(ff.Philox(0, "augmentation"))
    >>> order = rng.permutation(10)
    >>> raw = ff.words(np.empty(4, np.uint32), seed=0, name="augmentation")
    >>> ff.Philox(0, "augmentation").random_raw(2).tolist() == raw.view("<u8").tolist()
    True
    """

    def __init__(self, seed: int | Stream = 0, name: str | int = 0, start: int = 0) -> None:
        position = integer(start, "start", 0, LARGEST_TENSOR, "[0, 2**63)")
        if not isinstance(seed, Stream):
            stream = Stream(seed, name)
        elif type(name) is int and name == 0:
            stream = seed
        else:
            raise TypeError(f"name: expected none beside a Stream, which has its own; got {shown(name)}")
        machine = _machine()
        super().__init__(stream)  # type: ignore[arg-type]  # any ISeedSequence will do
        self._state = machine.new_state()
        machine.place(self._state, stream.key, position)
        _connect(self.capsule, self._state.ctypes.data, machine.code())

    @property
    def state(self) -> dict[str, Any]:
        """Everything that the next words depend on; what it was set to goes on from there."""
        machine = _machine()
        with self.lock:
            key, position = machine.key_of(self._state), machine.position_of(self._state)
        return {
            "bit_generator": _NAME,
            "stream": STREAM_VERSION,
            "state": {
                "seed": key[0] | key[1] << 32,
                "substream": key[2] | key[3] << 32,
                "position": position,
            },
        }

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
        if not isinstance(value, dict):
            raise TypeError(f"state: expected a dict, as state returns; got {shown(value)}")
        if value.get("bit_generator") != _NAME:
            raise ValueError(
                f"state: expected one of {_NAME}; got one of {shown(value.get('bit_generator'))}; set it on "
                "such a generator"
            )
        if value.get("stream") != STREAM_VERSION:
            raise ValueError(
                f"state: expected one of stream version {STREAM_VERSION}; got {shown(value.get('stream'))}; "
                "only a release of fanfill with that version goes on with its words"
            )
        inner = value.get("state")
        if not isinstance(inner, dict) or not {"seed", "substream", "position"} <= set(inner):
            raise ValueError(f"state: expected seed, substream and position in state; got {shown(inner)}")
        key = key_of(inner["seed"], integer(inner["substream"], "substream", 0, _COUNTER, "[0, 2**64)"))
        position = integer(inner["position"], "position", 0, _COUNTER, "[0, 2**64)")
        with self.lock:
            _machine().place(self._state, key, position)

    def advance(self, delta: int) -> Philox:
        """Pass over ``delta`` words of 32 bits, or go back, and return the generator itself.

        Raises
        ------
        TypeError, ValueError
            If ``delta`` is no integer, or leads out of [0, 2^63); the state is as it was.
        """
        steps = integer(delta, "delta", -_COUNTER, _COUNTER, "(-2**64, 2**64)")
        machine = _machine()
        with self.lock:
            before = machine.position_of(self._state)
            if not 0 <= before + steps < LARGEST_TENSOR:
                raise ValueError(
                    f"delta: expected a step from word {before} to one in [0, 2**63); got {shown(delta)}"
                )
            machine.place(self._state, machine.key_of(self._state), before + steps)
        return self

    def jumped(self, jumps: int = 1) -> Philox:
        """A new generator at the same position, ``jumps`` substreams further on, modulo 2^64."""
        steps = integer(jumps, "jumps", -_COUNTER, _COUNTER, "(-2**64, 2**64)")
        state = self.state
        state["state"]["substream"] = (state["state"]["substream"] + steps) % _COUNTER
        return _restored(type(self), self.seed_seq, state)

    def __reduce__(self) -> Any:
        return _restored, (type(self), self.seed_seq, self.state)


def _restored(kind: type[Philox], stream: Any, state: dict[str, Any]) -> Philox:
    made = kind(stream)
    made.state = state
    return made


@functools.cache
def _machine() -> Any:
    """The kernels' module, if compiled code can be used here; else BackendUnavailableError."""
    name, why = select_backend(np.empty(0, np.uint32))
    if name != "numba":
        remedy = f" ({why}); unset it" if why.startswith("FANFILL_BACKEND") else f"; {why}"
        raise BackendUnavailableError(
            f"{_NAME}: expected the backend 'numba', whose compiled code hands out the words; got "
            f"{name!r}{remedy}"
        )
    resolve("cpu", "numba")
    from fanfill_kernels.compile import callbacks, cpu

    if cpu.interpreted():
        raise BackendUnavailableError(
            f"{_NAME}: expected Numba to compile; NUMBA_DISABLE_JIT is set; unset it"
        )
    return callbacks


@functools.cache
def _pointer_of() -> Callable[[Any, bytes], int]:
    """``PyCapsule_GetPointer``, declared for this module alone."""
    declared = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    return declared(("PyCapsule_GetPointer", ctypes.pythonapi))


def _connect(capsule: Any, state: int, code: callbacks.Code) -> None:
    """Write the state's address and the functions' into the struct that NumPy calls through.

    NumPy leaves it empty, and crashes if it calls an empty one.
    """
    entries = (state, code.uint64, code.uint32, code.double, code.uint64)
    if not all(entries):
        raise RuntimeError(f"expected five addresses; got {entries}; remove the cache and try again")
    bitgen = _BitGen.from_address(_pointer_of()(capsule, b"BitGenerator"))
    bitgen.state, bitgen.next_uint64, bitgen.next_uint32, bitgen.next_double, bitgen.next_raw = entries
