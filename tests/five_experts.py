"""Five experts of a small network, in float64, that differ in everything that is trained."""

import torch
from torch import nn

from ppap_lib.diffusion.schedules import Schedule
from ppap_lib.experts import Experts, full_copies, lora
from ppap_lib.experts.intervals import Intervals

LINEAR = Schedule.linear()
FIVE = Intervals(1000, 5)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()


def the_config(net):
    return lora.lora_config(net, ("0", "3"), 2, 5.0, ("1.*", "3.bias"))


def shaken(experts: Experts, seed=1) -> Experts:
    """Experts that differ from each other in everything that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for member in experts.bank:
            for tensor in (*member.parameters(), *member.buffers()):
                if tensor.is_floating_point():
                    noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                    tensor.add_(noise.to(tensor.dtype))
    return experts.eval()


def five(build, intervals=FIVE) -> Experts:
    net = network()
    made = build(net, intervals) if build is full_copies else build(net, the_config(net), intervals)
    return shaken(made)


def images(count, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)


def levels(*times):
    return LINEAR.at(torch.tensor(times, dtype=torch.float64))
