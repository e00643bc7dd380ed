"""Layers against the same equations written without a shortcut."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr.layers import ACmix, BackdoorIntervention, DisentangledCrossAttention
from gpu.recording import Record
from gpu.timing import autocast, free_memory, interleaved, peak_gib, ratio, relative_error, times

NUM_HEADS, WINDOW = 8, 7


def unfolded_acmix(layer: ACmix, x: Tensor) -> Tensor:
    """ACmix with each window of keys, of their positions and of values unfolded: 49 copies of each."""
    batch, _, height, width = x.shape
    q, k, v = (conv(x).contiguous() for conv in (layer.conv1, layer.conv2, layer.conv3))
    head_dim = q.shape[1] // NUM_HEADS

    def heads(m: Tensor) -> Tensor:
        return m.reshape(batch * NUM_HEADS, head_dim, height, width)

    def windows(m: Tensor) -> Tensor:
        padded = F.pad(m, [WINDOW // 2] * 4, mode="reflect")
        return F.unfold(padded, WINDOW).view(len(m), head_dim, WINDOW**2, height, width)

    rows, cols = (torch.linspace(-1, 1, size, device=x.device) for size in (height, width))
    grid = torch.stack([cols.expand(height, width), rows[:, None].expand(height, width)])
    p = layer.conv_p(grid[None]).contiguous()
    keys = windows(heads(k)) + p[:, :, None] - windows(p)
    logits = (heads(q)[:, :, None] * keys).sum(dim=1) * head_dim**-0.5
    attended = (logits.softmax(dim=1)[:, None] * windows(heads(v))).sum(dim=2).reshape(batch, -1, height, width)
    stacked = torch.cat([m.view(batch, NUM_HEADS, head_dim, height * width) for m in (q, k, v)], dim=1)
    mixed = layer.fc(stacked).transpose(1, 2).reshape(batch, -1, height, width)
    return layer.rate1 * attended + layer.rate2 * layer.dep_conv(mixed)


def plain_attention(layer: DisentangledCrossAttention, query: Tensor, tokens: Tensor) -> Tensor:
    """Fused attention of queries to tokens: one branch, with the same projections."""
    q, k, v = (
        projection(x).unflatten(2, (NUM_HEADS, -1)).transpose(1, 2)
        for projection, x in ((layer.q_proj, query), (layer.k_proj, tokens), (layer.v_proj, tokens))
    )
    return layer.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def looped_intervention(layer: BackdoorIntervention, causal: Tensor, borrowed: Tensor) -> Tensor:
    """Eq. 6 for one confounder after the other, all images at once."""
    weight = next(parameter for parameter in layer.parameters() if parameter.ndim == 2)
    bias = next(parameter for parameter in layer.parameters() if parameter.ndim == 1)
    return torch.stack([((causal + confounder) * weight).sum(dim=-1) + bias for confounder in borrowed], dim=1)


def _gradients(run: Callable[[], Tensor], inputs: list[Tensor], device: str) -> Callable[[], Any]:
    def step() -> Any:
        with autocast(device):
            output = run()
        return torch.autograd.grad(output.float().square().mean(), inputs, allow_unused=True)

    return step


def _compare(
    record: Record,
    name: str,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    inputs: list[Tensor],
    *,
    rounds: int,
    **goals: float,
) -> None:
    """Add the rows of one layer, forward and backward; `goals`: `faster` times, `memory` as a share."""
    device = record.args.device
    steps = [_gradients(run, inputs, device) for run in (ours, theirs)]
    mine, other = interleaved(steps, device, rounds=rounds, warmup=2, ahead=True)
    memory = [peak_gib(step, device) for step in steps]
    faster = other / mine
    small = record.args.small
    record.row(
        f"{name}, time",
        f"{mine:.3f} ms against {other:.3f} ms, {faster:.2f} times faster",
        goal=f"{goals['faster']:g} times" if "faster" in goals else "",
        met=faster >= goals["faster"] if "faster" in goals and not small else None,
        milliseconds={"ours": mine, "theirs": other},
    )
    share = ratio(*memory)
    if share is not None:
        record.row(
            f"{name}, memory",
            f"{memory[0]:.3f} GiB against {memory[1]:.3f} GiB, {times(share)}",
            goal=f"<= {goals['memory']:g}" if "memory" in goals else "",
            met=share <= goals["memory"] if "memory" in goals else None,
            gib={"ours": memory[0], "theirs": memory[1]},
        )
    free_memory(device)


def _check(record: Record, name: str, ours: Tensor, theirs: Tensor) -> None:
    """Raise unless both sides compute the same, in float32 up to TF32."""
    error = relative_error(ours, theirs)
    if not error < 1e-2:
        raise AssertionError(f"{name}: the two sides differ by {error:g} of the largest value")
    record.content.setdefault("agreement", {})[name] = error


def acmix(record: Record) -> None:
    """ACmix against unfolding, at the shapes of `causal_resnet101` at 512 px."""
    small, device = record.args.small, record.args.device
    batch, dim, side, rounds = (2, 32, 12, 1) if small else (32, 256, 32, 20)
    layer = ACmix(dim, dim, num_heads=NUM_HEADS).to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, dim, side, side, device=device).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    with torch.no_grad():
        _check(record, "ACmix", layer(x), unfolded_acmix(layer, x))
    inputs = [x, *layer.parameters()]
    name = f"ACmix ({batch}, {dim}, {side}, {side}) against unfolding"
    _compare(
        record, name, lambda: layer(x), lambda: unfolded_acmix(layer, x), inputs, rounds=rounds, faster=3, memory=0.125
    )


def cross_attention(record: Record) -> None:
    """Both branches against plain attention with one."""
    small, device = record.args.small, record.args.device
    batch, dim, tokens, rounds = (2, 32, 64, 1) if small else (32, 256, 1024, 50)
    layer = DisentangledCrossAttention(dim, num_heads=NUM_HEADS).to(device)
    query = torch.randn(batch, 14, dim, device=device, requires_grad=True)
    key = torch.randn(batch, tokens, dim, device=device, requires_grad=True)
    with torch.no_grad():
        _check(record, "cross-attention", layer(query, key, key).causal, plain_attention(layer, query, key))

    def both() -> Tensor:
        output = layer(query, key, key)
        return torch.cat([output.causal, output.confounder])

    inputs = [query, key, *layer.parameters()]
    name = f"cross-attention, {batch} x 14 queries, {tokens} tokens, width {dim}, two branches against one of plain"
    _compare(record, name, both, lambda: plain_attention(layer, query, key), inputs, rounds=rounds)


def intervention(record: Record) -> None:
    """All pairs at once against a loop over confounders."""
    small, device = record.args.small, record.args.device
    batch, dim, size, rounds = (2, 32, 16, 1) if small else (32, 256, 1024, 5)
    layer = BackdoorIntervention(14, dim).to(device)
    causal = torch.randn(batch, 14, dim, device=device, requires_grad=True)
    borrowed = torch.randn(size, 14, dim, device=device)
    with torch.no_grad():
        _check(record, "intervention", layer(causal, borrowed), looped_intervention(layer, causal, borrowed))
    inputs = [causal, *(parameter for parameter in layer.parameters() if isinstance(parameter, nn.Parameter))]
    name = f"intervention, {batch} images, {size} confounders, against a loop over confounders"
    _compare(
        record,
        name,
        lambda: layer(causal, borrowed),
        lambda: looped_intervention(layer, causal, borrowed),
        inputs,
        rounds=rounds,
    )
