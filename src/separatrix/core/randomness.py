"""Random numbers as a function of a seed, a purpose and a step, independent of what was drawn before.

Philox is a function of a key and a counter. The key consists of the seed, with all its 63 bits, and the purpose; the counter
starts at the step. Different seeds, purposes or steps therefore never share numbers.

Source: Salmon, Moraes, Dror & Shaw 2011, Parallel random numbers: as easy as 1, 2, 3.
"""

import functools
import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

WORD = 2**64 - 1
STATE_WORDS = 624  # length of the state of PyTorch's Mersenne Twister


class Draws:
    """Random numbers for one purpose at one step, as tensors on the CPU, float64 or int64.

    Args:
        seed: from 0 to 2**63 − 1.
        purpose: a label; different labels give different numbers.
        step: index of the draw, an integer.
    """

    def __init__(self, seed: int, purpose: str, step: int = 0) -> None:
        self._numpy = np.random.Generator(np.random.Philox(key=_key(seed, purpose), counter=_counter(step)))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.from_numpy(self._numpy.standard_normal(shape))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return torch.from_numpy(self._numpy.random(shape))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers from 0 to high − 1."""
        return torch.from_numpy(self._numpy.integers(high, size=shape))

    def permutation(self, count: int) -> Tensor:
        """The numbers from 0 to count − 1 in a random order."""
        return torch.from_numpy(self._numpy.permutation(count))

    def torch_state(self) -> Tensor:
        """A complete state for PyTorch's generator on the CPU, because a seed fills only 32 bits."""
        state = torch.Generator().get_state()
        words = state.numpy().view(np.uint64)
        words[3 : 3 + STATE_WORDS] = self._numpy.integers(2**32, size=STATE_WORDS, dtype=np.uint64)
        return state

    def torch_seed(self) -> int:
        """A seed of 63 bits, for generators that use all of them, such as those of GPUs."""
        return int(self._numpy.integers(2**63))


def torch_generator(seed: int, purpose: str, step: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """PyTorch's generator for a seed, a purpose and a step; its numbers differ from those of `Draws` with the same arguments."""
    draws, made = Draws(seed, purpose, step), torch.Generator(device)
    if made.device.type == "cpu":
        made.set_state(draws.torch_state())
        return made
    return made.manual_seed(draws.torch_seed())


def seed_generators(seed: int) -> None:
    """Seed PyTorch's global generators; those of GPUs only if they are in use, because PyTorch would otherwise seed them later."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def same_draws() -> Iterator[None]:
    """A context that restores PyTorch's global generators on exit."""
    cpu = torch.get_rng_state()
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if gpu:
            torch.cuda.set_rng_state_all(gpu)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A context or decorator for user code: restores the global generators of PyTorch, NumPy and Python on exit."""
    numpy, python = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    try:
        with same_draws():
            yield
    finally:
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)


@contextmanager
def drawing(seed: int, purpose: str, step: int = 0) -> Iterator[None]:
    """A context in which PyTorch's global generators are set by a seed, a purpose and a step; they are restored on exit."""
    with same_draws():
        draws = Draws(seed, purpose, step)
        torch.set_rng_state(draws.torch_state())
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(draws.torch_seed())
        yield


class _Reused(threading.local):
    """Generator that is moved to another key and counter, in a third of the time of creating one."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)
        self.generator = np.random.Generator(self.philox)
        self.state = self.philox.state

    def at(self, key: tuple[int, int], counter: tuple[int, ...]) -> np.random.Generator:
        inner = self.state["state"]
        inner["key"][:], inner["counter"][:] = key, counter
        self.state |= {"buffer_pos": 4, "has_uint32": 0}
        self.philox.state = self.state
        return self.generator


_reused = _Reused()


def normal_at(seed: int, purpose: str, step: int, size: int) -> Tensor:
    """The first normal numbers of `Draws(seed, purpose, step)`, for loops that need some at every step."""
    return torch.from_numpy(_reused.at(_words(seed, purpose), _counter_words(step)).standard_normal(size))


def _key(seed: int, purpose: str) -> np.ndarray:
    return np.array(_words(seed, purpose), dtype=np.uint64)


def _counter(step: int) -> np.ndarray:
    return np.array(_counter_words(step), dtype=np.uint64)


def _counter_words(step: int) -> tuple[int, int, int, int]:
    """The lowest word counts the blocks of numbers of a step, up to 2⁶⁴; the next two hold the step."""
    return 0, int(step) & WORD, (int(step) >> 64) & WORD, 0


def _words(seed: int, purpose: str) -> tuple[int, int]:
    return int(seed) & WORD, _code(purpose)


@functools.cache
def _code(purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
