"""Training: `loop` runs any network, `objectives` say what is minimised.

`python -m ppap_lib.train denoiser --tier fashion --device auto --minutes 120`
"""
