"""Plug-and-play diffusion guidance: sampling, guidance, experts and distillation."""

__version__ = "0.1.0"
