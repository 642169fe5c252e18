"""Training any network: an objective, samples, settings and a folder.

`fit.fit` runs a whole training and `trainer` the loop in it; `objectives` are what is minimised,
`checkpoints` what a run leaves on disk. The presets of a tier's own networks are `zoo.presets`,
their trainings `ppap train`.

>>> import tempfile, torch
>>> from ppap_lib.training.fit import fit
>>> from ppap_lib.training.settings import Settings
>>> def squared_error(network, x, y, generator):
...     return (network(x) - y).square().mean()
>>> x = torch.linspace(-1, 1, 64).view(64, 1)
>>> with tempfile.TemporaryDirectory() as folder:
...     summary = fit(torch.nn.Linear(1, 1), squared_error, x, 3 * x, Settings(steps=5), folder)
>>> summary["images_seen"], summary["parameters"]
(320, 2)
"""
