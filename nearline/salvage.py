"""Salvage: finds the inputs of a batch that a model cannot encode, and encodes all others."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from nearline.errors import BadAnswer

T = TypeVar("T")
R = TypeVar("R")
TRIES = 3


async def salvage(
    encode: Callable[[Sequence[T]], Awaitable[Sequence[R]]], batch: Sequence[T]
) -> tuple[list[tuple[T, R]], list[tuple[T, BadAnswer]]]:
    """Encode *batch*, halving it after a bad answer; return the encoded inputs and those that failed three tries.

    ``encode`` returns one result per input, in order, or raises ``BadAnswer`` for the whole call. Other errors
    (``Unavailable``) propagate: then nothing is known about any input.
    """
    good: list[tuple[T, R]] = []
    bad: list[tuple[T, BadAnswer]] = []
    waiting = [batch] if batch else []
    while waiting:
        part = waiting.pop()
        answer = await _try(encode, part, TRIES if len(part) == 1 else 1)
        if not isinstance(answer, BadAnswer):
            good.extend(zip(part, answer, strict=True))
        elif len(part) == 1:
            bad.append((part[0], answer))
        else:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
    return good, bad


async def _try(
    encode: Callable[[Sequence[T]], Awaitable[Sequence[R]]], part: Sequence[T], tries: int
) -> Sequence[R] | BadAnswer:
    last = BadAnswer("never tried")
    for _ in range(tries):
        try:
            return await encode(part)
        except BadAnswer as error:
            last = error
    return last
