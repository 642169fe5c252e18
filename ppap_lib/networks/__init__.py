"""Networks whose state-dict keys are those of the public checkpoints, and small ones to train.

A denoiser of grey images, and a classifier of them that reads images of any size:

>>> import torch
>>> from ppap_lib.networks.adm import UNet
>>> from ppap_lib.networks.classifiers import SMALL_DENOISER, judge
>>> from ppap_lib.networks.vision import Vision
>>> x, t = torch.zeros(2, 1, 32, 32), torch.tensor([0.0, 999.0])
>>> UNet(SMALL_DENOISER)(x, t).shape  # the second channel is the variance's
torch.Size([2, 2, 32, 32])
>>> Vision(judge(channels=1, num_classes=10), size=32, channels=1)(torch.zeros(2, 3, 64, 48)).shape
torch.Size([2, 10])
"""
