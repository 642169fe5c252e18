"""Plug-and-play diffusion guidance: sampling, guidance, experts and distillation.

Four lines to a picture::

    import ppap_lib as ppap

    model = ppap.load("fashion/denoiser")
    guide = ppap.guide(ppap.load("fashion/resnet18"), target=9, read="x0")
    boots = ppap.draw(model.guided(guide, scale=7.5), seeds=range(8), solver="ddim", steps=25)
    ppap.save_sheet(boots, "boots.png", columns=4)

The stub beside this file, `__init__.pyi`, lists the public names and the rooms that define them:
for type checkers, and for `__getattr__`, which imports a room when one of its names is first used
(PEP 562). `import ppap_lib` alone imports nothing.
"""

import ast
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf8"))
_IMPORTS = [line for line in _STUB.body if isinstance(line, ast.ImportFrom)]
_HOMES = {alias.name: line.module for line in _IMPORTS for alias in line.names}
_ROOMS = {module.split(".")[1] for module in _HOMES.values()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import the public name, or the room, `name`."""
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        globals()[name] = value = getattr(import_module(_HOMES[name]), name)
        return value
    close = get_close_matches(name, [*__all__, *_ROOMS], n=1)
    hint = f": did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, "__version__"])
