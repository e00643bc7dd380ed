"""Tools for comparisons: tolerances, devices, and parameters for which no term of an equation vanishes."""

import pytest
import torch
from torch import nn

EXACT = {"rtol": 1e-9, "atol": 1e-9}

# Largest allowed error relative to the largest value: two roundings in half precision (eps 1e-3, 8e-3).
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# The same for gradients, autocast and other devices, whose convolution algorithms may round more.
LOOSE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


def randomised(module, *, scale=0.5, seed=0):
    """Return the module in float64 with random parameters, since new layers have biases of 0 and rates of 0.5.

    Batch normalisation gets random running statistics and uses them until the module is put into training mode.
    """
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for norm in (child for child in module.modules() if isinstance(child, nn.BatchNorm2d)):
            norm.running_mean.copy_(scale * torch.randn(norm.running_mean.shape, generator=generator).double())
            norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=generator).double())
            norm.eval()
    return module


def part(weights, name):
    """Return the weights of one part of a module, keyed by their names within it."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def normal(*shape, seed=1):
    """Return standard normal samples in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(*size, channels=3, batch=2):
    """Return standard normal float32 images of size (height, width), by default 64 x 64."""
    return normal(batch, channels, *(size or (64, 64)), seed=0).float()


def relative_error(given, expected):
    """Return the largest difference relative to the largest expected value."""
    difference = (given.detach().double().cpu() - expected.detach().cpu()).abs().max()
    return float(difference / expected.detach().abs().max().cpu())
