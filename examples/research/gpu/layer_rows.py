"""Layers against the same equations written without a shortcut."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.yardsticks import looped_intervention, one_branch_attention, unfolded_acmix
from causalcxr.layers import ACmix, BackdoorIntervention, DisentangledCrossAttention
from gpu.recording import Record
from gpu.timing import autocast, free_memory, interleaved, peak_gib


def _compare(
    record: Record,
    name: str,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    inputs: list[Tensor],
    *,
    rounds: int,
) -> None:
    """Add the rows of one layer, forward and backward."""
    device = record.args.device

    def gradients(run: Callable[[], Tensor]) -> Callable[[], Any]:
        def step() -> Any:
            with autocast(device):
                output = run()
            return torch.autograd.grad(output.float().square().mean(), inputs, allow_unused=True)

        return step

    steps = [gradients(run) for run in (ours, theirs)]
    mine, other = interleaved(steps, device, rounds=1 if record.args.small else rounds, ahead=True)
    memory = [peak_gib(step, device) for step in steps]
    shown = f"{mine:.3f} ms against {other:.3f} ms, {other / mine:.2f} times faster"
    record.row(f"{name}, time", shown, milliseconds={"ours": mine, "theirs": other})
    if device == "cuda":
        shown = f"{memory[0]:.3f} GiB against {memory[1]:.3f} GiB, {memory[0] / memory[1]:.3f} x"
        record.row(f"{name}, memory", shown, gib={"ours": memory[0], "theirs": memory[1]})
    free_memory(device)


def _check(ours: Tensor, theirs: Tensor) -> None:
    """Raise unless both sides compute the same, in float32 up to TF32."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-2 * float(theirs.abs().max()))


def acmix(record: Record) -> None:
    """ACmix against unfolding, at the shapes of `causal_resnet101` at 512 px."""
    device = record.args.device
    batch, dim, side = (2, 32, 12) if record.args.small else (32, 256, 32)
    layer = ACmix(dim, dim, num_heads=8).to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, dim, side, side, device=device).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    with torch.no_grad():
        _check(layer(x), unfolded_acmix(layer, x))
    name = f"ACmix ({batch}, {dim}, {side}, {side}) against unfolding"
    inputs = [x, *layer.parameters()]
    _compare(record, name, lambda: layer(x), lambda: unfolded_acmix(layer, x), inputs, rounds=20)


def cross_attention(record: Record) -> None:
    """Both branches against plain attention with one."""
    device = record.args.device
    batch, dim, tokens = (2, 32, 64) if record.args.small else (32, 256, 1024)
    layer = DisentangledCrossAttention(dim).to(device)
    query = torch.randn(batch, 14, dim, device=device, requires_grad=True)
    key = torch.randn(batch, tokens, dim, device=device, requires_grad=True)
    with torch.no_grad():
        _check(layer(query, key, key).causal, one_branch_attention(layer, query, key))

    def both() -> Tensor:
        output = layer(query, key, key)
        return torch.cat([output.causal, output.confounder])

    inputs = [query, key, *layer.parameters()]
    name = f"cross-attention, {batch} x 14 queries, {tokens} tokens, width {dim}, two branches against one of plain"
    _compare(record, name, both, lambda: one_branch_attention(layer, query, key), inputs, rounds=50)


def intervention(record: Record) -> None:
    """All pairs at once against a loop over confounders."""
    device = record.args.device
    batch, dim, size = (2, 32, 16) if record.args.small else (32, 256, 1024)
    layer = BackdoorIntervention(14, dim).to(device)
    causal = torch.randn(batch, 14, dim, device=device, requires_grad=True)
    borrowed = torch.randn(size, 14, dim, device=device)
    with torch.no_grad():
        _check(layer(causal, borrowed), looped_intervention(layer, causal, borrowed))
    name = f"intervention, {batch} images, {size} confounders, against a loop over confounders"
    inputs = [causal, *layer.parameters()]
    loop = partial(looped_intervention, layer, causal, borrowed)
    _compare(record, name, partial(layer, causal, borrowed), loop, inputs, rounds=5)
