"""Plug-and-play diffusion guidance: sampling, guidance, experts and distillation.

The package is flat and layered; a module imports only from layers below its own
(`tests/test_layers.py` holds the table). Nothing is imported here, so that using one
part never pays for another: write ``from ppap_lib.samplers import ddim``.
"""

__version__ = "0.1.0"
