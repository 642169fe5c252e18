"""Signals that ask a training to end: it is told, and ends where nothing is lost."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP")]
_CONTINUED = getattr(signal, "SIGCONT", None)  # Windows cannot stop a process


class Signals:
    """Signals that have come: `ended_by`, and whether the process was `stopped` and goes on."""

    def __init__(self) -> None:
        self.ended_by: signal.Signals | None = None
        self.stopped = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen while the block runs, in the main thread, to signals that nobody else handles.

        The second one of a kind does what it usually does.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            usual = (signal.SIG_DFL, signal.default_int_handler)
            numbers = [*_ENDING, *([_CONTINUED] if _CONTINUED else [])]
            before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) in usual}
        for number in before:
            signal.signal(number, self._note)
        self._before = before
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == _CONTINUED:
            self.stopped = True
            return
        self.ended_by = signal.Signals(number)
        signal.signal(number, self._before[number])

    def end(self, words: str) -> None:
        """End as the signal asks, if one has come; `words` say how to go on.

        Raises `KeyboardInterrupt` with the words after SIGINT, as usual; after another signal they
        are printed, and `SystemExit` has the usual status.
        """
        if self.ended_by is None:
            return
        words = f"ended by {self.ended_by.name}: {words}"
        if self.ended_by is signal.SIGINT:
            raise KeyboardInterrupt(words)
        print(words, file=sys.stderr)
        raise SystemExit(128 + self.ended_by)
