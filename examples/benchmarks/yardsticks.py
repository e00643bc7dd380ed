"""What the library is measured against, written from the equations and without its shortcuts.

Each has the parameters of the library's own part, so that both can be given the same weights and must then agree.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from causalcxr import CausalCXR, create_model
from causalcxr.layers import ACmix, DisentangledCrossAttention, GroupLinear
from causalcxr.layers.cross_attention import DisentangledAttention


class UnfoldACmix(ACmix):
    """ACmix with every window unfolded: 49 copies of the keys, of their positions and of the values."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()  # unfolding wants one channel after the other
        batch, _, height, width = x.shape
        heads, head_dim = self.num_heads, self.head_dim
        q, k, v = (
            conv(x).reshape(batch * heads, head_dim, height, width) for conv in (self.conv1, self.conv2, self.conv3)
        )
        y, x_ = (torch.linspace(-1, 1, size, device=x.device, dtype=x.dtype) for size in (height, width))
        p = self.conv_p(torch.stack([x_.expand(height, width), y[:, None].expand(height, width)])[None])
        keys = self._windows(k) + p[:, :, None] - self._windows(p)
        logits = (q[:, :, None] * keys).sum(dim=1) * head_dim**-0.5  # (B * heads, 49, H, W)
        attended = (logits.softmax(dim=1)[:, None] * self._windows(v)).sum(dim=2)
        stacked = torch.cat([t.view(batch, heads, head_dim, height * width) for t in (q, k, v)], dim=1)
        mixed = self.fc(stacked)  # (B, 9, d, H * W)
        mixed = rearrange(mixed, "b t d (h w) -> b (d t) h w", h=height)
        return self.rate1 * attended.view(batch, -1, height, width) + self.rate2 * self.dep_conv(mixed)

    def _windows(self, x: Tensor) -> Tensor:
        """Return the window of each pixel, (N, d, 49, H, W)."""
        size = self.attn_kernel_size
        padded = F.pad(x, [size // 2] * 4, mode="reflect")
        return F.unfold(padded, size).view(len(x), x.shape[1], size**2, *x.shape[-2:])


class MaterialisedCrossAttention(DisentangledCrossAttention):
    """Cross-attention that forms softmax and 1 - softmax, (K, N) each."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor | None = None, **_: object) -> DisentangledAttention:
        value = key if value is None else value
        q, k, v = (
            rearrange(x, "b n (h d) -> b h n d", h=self.num_heads)
            for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        attention = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
        complement = 1 - attention
        if self.complement == "normalized":
            complement = complement / (k.shape[-2] - 1)
        causal, confounder = (
            self.out_proj(rearrange(weights @ v, "b h k d -> b k (h d)")) for weights in (attention, complement)
        )
        return DisentangledAttention(causal, confounder, None)


class OneBranchCrossAttention(DisentangledCrossAttention):
    """Plain fused cross-attention: the causal branch alone."""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:  # type: ignore[override]
        q, k, v = (
            rearrange(x, "b n (h d) -> b h n d", h=self.num_heads)
            for x in (self.q_proj(query), self.k_proj(key), self.v_proj(key))
        )
        return self.out_proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h k d -> b k (h d)"))


Classifier = Callable[[Tensor], Tensor]


def loop_over_pairs(
    classify: Classifier, causal: Tensor, confounders: Tensor, targets: Tensor, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Eq. 7 of arXiv 2305.12072 as its double sum is written: every image (K, D) with every confounder (K, D).

    Returns the loss and its gradients, taken image by image, as those of all pairs at once would need gigabytes.
    """
    sums = [torch.zeros_like(t) for t in (causal.new_zeros(()), *inputs)]
    for features, target in zip(causal, targets, strict=True):
        total = causal.new_zeros(())
        for confounder in confounders:
            total = total + F.binary_cross_entropy_with_logits(classify(features + confounder), target)
        total = total / (len(causal) * len(confounders))
        taken = (total.detach(), *torch.autograd.grad(total, inputs, retain_graph=True))
        sums = [a + b for a, b in zip(sums, taken, strict=True)]
    return tuple(sums)


def loop_over_confounders(classify: Classifier, causal: Tensor, confounders: Tensor, targets: Tensor) -> Tensor:
    """The same for all images (B, K, D) at once: only the inner sum is a loop."""
    total = causal.new_zeros(())
    for confounder in confounders:
        total = total + F.binary_cross_entropy_with_logits(classify(causal + confounder), targets)
    return total / len(confounders)


def written_out(layer: GroupLinear) -> Classifier:
    """Return Phi of Eq. 6, z_k = sum_d w_kd h_kd + b_k, as the equation has it."""
    return lambda features: (features * layer.weight).sum(dim=-1) + layer.bias


def unfolded(model: nn.Module) -> nn.Module:
    """Give a model the layers of this file, with its own weights."""
    forms: dict[type, type] = {ACmix: UnfoldACmix, DisentangledCrossAttention: MaterialisedCrossAttention}
    for module in model.modules():
        module.__class__ = forms.get(type(module), type(module))
    return model


def published_design(name: str = "causal_resnet101", *, dim: int = 2048, **kwargs: object) -> CausalCXR:
    """Build the design as published: width 2,048, 15 outputs, features concatenated, nothing computed by shortcut."""
    return unfolded(create_model(name, dim=dim, num_classes=15, combine="cat", **kwargs))


def loop_over_resamples(
    scores: np.ndarray, targets: np.ndarray, groups: np.ndarray, n_resamples: int, seed: int = 0
) -> Iterator[list[float]]:
    """Bootstrap over groups by scikit-learn, drawn as the library does: build each resample and score each label."""
    members = np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    num_groups = members.max() + 1
    for _ in range(n_resamples):
        drawn = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
        rows = np.repeat(np.arange(len(members)), drawn[members])
        yield [roc_auc_score(targets[rows, k], scores[rows, k]) for k in range(targets.shape[1])]
