"""Diffusion: noise levels, schedules, denoisers, noise from seeds, and models that are known exactly."""
