"""Training any network: an objective, samples, settings and a folder.

`fit.fit` runs a whole training and `trainer` the loop in it; `objectives` are what is minimised,
`checkpoints` what a run leaves on disk. The presets of a tier's own networks are `zoo.presets`,
their trainings `ppap train`.
"""
