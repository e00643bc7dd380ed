"""Argument checks whose messages report what was expected and what was passed."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["check_choice", "check_count", "check_heads", "check_range", "check_tensor", "readable"]


def check_tensor(name: str, x: Any, shape: str, **sizes: int) -> None:
    """Raise unless `x` is a floating-point tensor of the given shape.

    Args:
        name: Name of the argument, for the message.
        x: Value to check.
        shape: Names of the axes, e.g. `"B C H W"`. `"... K D"` allows any number of leading axes.
        **sizes: Required sizes of named axes.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a floating-point tensor of shape ({shape}), but got {type(x).__name__}")
    if not x.is_floating_point():
        scale = " / 255, normalised" if name == "images" and x.dtype == torch.uint8 else ""
        raise TypeError(
            f"{name} must be a floating-point tensor of shape ({shape}), but got dtype {x.dtype}; "
            f"use {name}.float(){scale}"
        )
    axes = shape.split()
    fits = x.ndim >= len(axes) - 1 if axes[0] == "..." else x.ndim == len(axes)
    if not fits or any(x.shape[axes.index(axis) - len(axes)] != size for axis, size in sizes.items()):
        fixed = "".join(f", {axis}={size}" for axis, size in sizes.items())
        raise ValueError(f"{name} must have shape ({', '.join(axes)}){fixed}, but got {tuple(x.shape)}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, but got {value!r}")


def check_count(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is an integer of at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, but got {value!r}")


def check_range(name: str, value: Any, example: tuple[float, float]) -> None:
    """Raise `ValueError`, with an `example`, unless `value` is a pair (low, high) with 0 < low <= high <= 1."""
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not 0 < value[0] <= value[1] <= 1:
        raise ValueError(f"{name} must be a range within (0, 1], such as {example}, but got {value!r}")


def check_heads(dim: int, num_heads: int) -> None:
    """Raise `ValueError` unless `dim` can be split evenly into `num_heads` heads."""
    if dim < 1 or num_heads < 1 or dim % num_heads:
        raise ValueError(f"the width must be a positive multiple of num_heads, but got {dim} and {num_heads}")


def readable(x: Tensor) -> bool:
    """Return whether `x` holds values that can be read without synchronising a device."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.device.type != "cpu":
        return False
    return not (torch._C._functorch.is_functorch_wrapped_tensor(x) or isinstance(x, FakeTensor))
