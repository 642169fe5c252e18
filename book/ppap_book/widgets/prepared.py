"""Answers worked out for many keys at once beforehand, and for others when they are asked for."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from ppap_book.errors import StudyError

Answer = TypeVar("Answer")


class Precomputed(Generic[Answer]):
    """`compute(keys) -> one answer per key`, as a function of one key.

    The keys of `beforehand`, such as a page's frames, are computed in a single call; any other is
    computed when it is first asked for. None is computed twice.
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
        """The answer for the key (a, b, ...) of several arguments, or a of a single one."""
        asked = key if len(key) > 1 else key[0]
        if asked not in self._known:
            self._learn([asked])
        return self._known[asked]

    def _learn(self, keys: list[Hashable]) -> None:
        answers = list(self._compute(keys)) if keys else []
        if len(answers) != len(keys):
            raise StudyError(f"{len(answers)} answers for {len(keys)} keys: expected one each")
        self._known.update(zip(keys, answers, strict=True))
