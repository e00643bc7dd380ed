"""Rows of the comparison: single layers."""

import copy
from functools import partial

import torch
from torch import Tensor, nn

from causalcxr import CausalObjective, create_model
from causalcxr.layers import ACmix, BackdoorIntervention, DisentangledCrossAttention
from causalcxr.losses import backdoor_loss
from comparing import Rows, agree, compared, gradients
from yardsticks import (
    MaterialisedCrossAttention,
    OneBranchCrossAttention,
    UnfoldACmix,
    loop_over_confounders,
    loop_over_pairs,
    written_out,
)


def acmix(device: str) -> Rows:
    ours = ACmix(512, 512).to(device)
    theirs = copy.deepcopy(ours)
    theirs.__class__ = UnfoldACmix
    x, direction = (torch.randn(2, 512, 32, 32, device=device) for _ in range(2))
    x.requires_grad_()
    sides = {
        name: partial(gradients, lambda layer=layer: (layer(x) * direction).sum(), x, *layer.parameters())
        for name, layer in (("ours", ours), ("theirs", theirs))
    }
    agree(ours(x), theirs(x))
    agree(sides["ours"]()[1:], sides["theirs"]()[1:], rtol=1e-3, atol=2e-2)  # sums over 2,048 pixels
    time = 6.0 if device == "cpu" else 3.0
    yield (
        "`ACmix`, (2, 512, 32, 32), forward and backward | unfold form",
        compared(sides, device, faster=True, time=time, memory=8.0, rounds=15),
    )


def attention(device: str) -> Rows:
    for dim in (256, 512):
        ours = DisentangledCrossAttention(dim).to(device)
        theirs, literal = copy.deepcopy(ours), copy.deepcopy(ours)
        theirs.__class__, literal.__class__ = OneBranchCrossAttention, MaterialisedCrossAttention
        query, tokens = torch.randn(8, 14, dim, device=device), torch.randn(8, 1024, dim, device=device)
        query.requires_grad_()
        tokens.requires_grad_()
        agree(ours(query, tokens), literal(query, tokens))
        agree(ours(query, tokens).causal, theirs(query, tokens))

        def both(layer: nn.Module = ours, query: Tensor = query, tokens: Tensor = tokens) -> Tensor:
            output = layer(query, tokens)
            return output.causal.sum() + output.confounder.sum()

        def one(layer: nn.Module = theirs, query: Tensor = query, tokens: Tensor = tokens) -> Tensor:
            return layer(query, tokens).sum()

        sides = {
            "ours": partial(gradients, both, query, tokens, *ours.parameters()),
            "theirs": partial(gradients, one, query, tokens, *theirs.parameters()),
        }
        yield (
            f"`DisentangledCrossAttention`, batch 8, 14 queries, 1,024 tokens, width {dim}, both branches, forward and "
            "backward | plain fused attention, one branch",
            compared(sides, device, faster=False, time=1.05, memory=1.05, rounds=60),
        )


SIZES = "`BackdoorIntervention` and `backdoor_loss`, 64 images, 4,096 confounders, 14 labels, forward and backward"


def intervention(device: str) -> Rows:
    layer = BackdoorIntervention(14, 256).to(device)
    causal = torch.randn(64, 14, 256, device=device, requires_grad=True)
    bank = torch.randn(4096, 14, 256, device=device)
    targets = (torch.rand(64, 14, device=device) < 0.1).float()
    phi = layer.classifier
    inputs = (causal, phi.weight, phi.bias)
    data = (written_out(phi), causal, bank, targets)
    prior = torch.full((4096,), 1 / 4096, device=device)
    ours = partial(gradients, lambda: backdoor_loss(layer(causal, bank), targets, prior=prior), *inputs)
    loops = {
        "loop over pairs": (partial(loop_over_pairs, *data, inputs), {"rounds": 3, "warmup": 0}),
        "loop over confounders, all images at once": (
            partial(gradients, lambda: loop_over_confounders(*data), *inputs),
            {"rounds": 15, "warmup": 2},
        ),
    }
    for name, (theirs, turns) in loops.items():
        agree(ours(), theirs())
        yield f"{SIZES} | {name}", compared({"ours": ours, "theirs": theirs}, device, faster=True, time=100.0, **turns)
    images = torch.randn(8, 3, 512, 512, device=device).contiguous(memory_format=torch.channels_last)
    objective = CausalObjective(create_model("causal_resnet101")).to(device, memory_format=torch.channels_last)
    step = partial(gradients, lambda: objective(images, targets[:8])["loss"], *objective.parameters())
    yield (
        f"{SIZES} | the forward and backward of `causal_resnet101` on 8 images of 512 px (on 64 it takes longer)",
        compared({"ours": ours, "theirs": step}, device, faster=True, time=100.0, rounds=4),
    )
