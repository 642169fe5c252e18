"""Training: `loop` runs any network, `objectives` say what is minimised, `recipes` put a
tier's network, data and presets together.

`python -m ppap_lib train denoiser --tier fashion --device auto --minutes 120`
`python -m ppap_lib train classifier judge --tier fashion --minutes 20`
"""
