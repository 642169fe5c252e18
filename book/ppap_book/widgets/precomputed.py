"""Answers computed for many keys at once beforehand, and for other keys on demand."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from ppap_book.errors import StudyError

Answer = TypeVar("Answer")


class Precomputed(Generic[Answer]):
    """`compute(keys) -> one answer per key`, as a function of one key.

    The keys of `beforehand`, such as a page's frames, are computed in a single call, any other key
    when its answer is first needed. Each key is computed once.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Hashable]], Sequence[Answer]],
        beforehand: Iterable[Hashable] = (),
    ):
        self._compute = compute
        self._known: dict[Hashable, Answer] = {}
        self._learn(list(dict.fromkeys(beforehand)))

    def __call__(self, *key: Hashable) -> Answer:
        """Return the answer for the key (a, b, ...), or a where there is a single argument."""
        one = key if len(key) > 1 else key[0]
        if one not in self._known:
            self._learn([one])
        return self._known[one]

    def _learn(self, keys: list[Hashable]) -> None:
        answers = list(self._compute(keys)) if keys else []
        if len(answers) != len(keys):
            raise StudyError(f"{len(answers)} answers for {len(keys)} keys: expected one each")
        self._known.update(zip(keys, answers, strict=True))
