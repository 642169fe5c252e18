"""Diffusion: noise levels, schedules, denoisers, noise from seeds, and laws known exactly.

A denoiser is a function of noisy data and their level. An exact one, of a law with two modes:

>>> import torch
>>> from ppap_lib.diffusion.analytic import Mixture
>>> from ppap_lib.diffusion.schedules import Schedule
>>> level = Schedule.linear().at(200)
>>> hills = Mixture(torch.tensor([[-1.0], [1.0]]), stds=[0.1, 0.1])
>>> x_t = torch.tensor([[0.5]], dtype=torch.float64)
>>> prediction = hills.denoise(x_t, level)
>>> round(float(prediction.x0), 3)
0.816
>>> bool(level.noised(prediction.x0, prediction.eps).isclose(x_t))
True
"""
