"""Commands whose output nobody reads."""

import os
import subprocess
import sys

from places import ROOT


def unread(*words: str) -> tuple[str, int]:
    """What `python WORDS` says on stderr where stdout is closed (`| head -1`), and its status."""
    reading, writing = os.pipe()
    os.close(reading)
    path = os.pathsep.join([str(ROOT), str(ROOT / "book")])
    try:
        done = subprocess.run(
            [sys.executable, *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
    finally:
        os.close(writing)
    return done.stderr, done.returncode
