"""The backdoor intervention: combine each image's causal features with confounders of others."""

import torch
from torch import Tensor, nn

from causalcxr._checks import check_choice, check_tensor
from causalcxr.layers.group_linear import GroupLinear, label_products

__all__ = ["BackdoorIntervention"]


class BackdoorIntervention(nn.Module):
    r"""Classify causal features joined with borrowed confounders (arXiv 2305.12072, Eq. 6 and 7).

    .. math:: \hat z_{is} = \Phi(h_x^{(i)} + h_c^{(s)}) = w \cdot h_x^{(i)} + w \cdot h_c^{(s)} + b.

    Phi is linear for each label, so the double sum of Eq. 7 over all images and confounders is a sum of two matrices:
    `strategy="full"` is exact, costs next to nothing and has no sampling noise. `strategy="random"` is the paper's
    sampled form, one partner an image, whose average over draws is the full one. In `eval()` nothing is drawn, both are
    full.

    Confounders are borrowed from *others*: where none are given they are those of the other images of the batch, S = B
    - 1 of them, never the image's own. A batch of one has no others: S = 0. Given confounders are used for every image.

    Args:
        num_classes: Number of labels K.
        dim: Width D.
        combine: `"add"` classifies h_x + h_c (Eq. 6), `"cat"` their concatenation, which separates as well.
        strategy: `"full"` or `"random"`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        - causal: (B, K, D)
        - confounder: (B, K, D), features of the same images
        - confounders: (S, K, D) or `None`
        - Output: (B, S, K); (B, B - 1, K) without `confounders`; one column when drawn at random. Column s of row i
          belongs to confounder s where they are given, to image (i + 1 + s) mod B otherwise.

    Raises:
        ValueError: If shapes do not fit or an option is unknown.
        TypeError: If the features are not of floating point.

    Example:
        >>> import torch
        >>> intervene = BackdoorIntervention(14, 64)
        >>> causal, confounder = torch.randn(2, 4, 14, 64)
        >>> intervene(causal, confounder).shape
        torch.Size([4, 3, 14])
        >>> intervene(causal, confounder, torch.randn(100, 14, 64)).shape
        torch.Size([4, 100, 14])
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        combine: str = "add",
        strategy: str = "full",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("combine", combine, ("add", "cat"))
        check_choice("strategy", strategy, ("full", "random"))
        self.dim, self.combine, self.strategy = dim, combine, strategy
        self.classifier: nn.Module = nn.Identity()
        self.reset_classes(num_classes, device=device, dtype=dtype)

    def reset_classes(
        self, num_classes: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Replace the classifier Phi by a new one for `num_classes` labels; 0 leaves none."""
        in_features = self.dim * (2 if self.combine == "cat" else 1)
        self.classifier = (
            GroupLinear(num_classes, in_features, device=device, dtype=dtype) if num_classes else nn.Identity()
        )

    def forward(
        self,
        causal: Tensor,
        confounder: Tensor,
        confounders: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the intervened logits, see the class. `generator` draws the random partners."""
        sizes = {"K": self._phi().num_groups, "D": self.dim}
        check_tensor("causal", causal, "B K D", **sizes)
        check_tensor("confounder", confounder, "B K D", B=causal.shape[0], **sizes)
        if confounders is not None:
            check_tensor("confounders", confounders, "S K D", **sizes)
        batch = causal.shape[0]
        source = confounder if confounders is None else confounders
        candidates = batch - 1 if confounders is None else len(source)
        partners = _other_images(batch, causal.device) if confounders is None else None
        if self.training and self.strategy == "random" and candidates > 0:
            drawn = _draw(candidates, batch, generator, causal.device)[:, None]
            partners = drawn if partners is None else partners.gather(1, drawn)
        causal_part, confounder_part = self._parts(causal, source)
        return causal_part[:, None] + (confounder_part if partners is None else confounder_part[partners])

    def all_pairs(self, causal: Tensor, confounders: Tensor) -> Tensor:
        """Return the logits (B, S, K) of every image with every confounder, nothing drawn and nothing left out."""
        sizes = {"K": self._phi().num_groups, "D": self.dim}
        check_tensor("causal", causal, "B K D", **sizes)
        check_tensor("confounders", confounders, "S K D", **sizes)
        causal_part, confounder_part = self._parts(causal, confounders)
        return causal_part[:, None] + confounder_part

    def _parts(self, causal: Tensor, confounders: Tensor) -> tuple[Tensor, Tensor]:
        """Return w.h_x + b, (B, K), and w.h_c, (S, K)."""
        weight, bias = self._phi().weight, self._phi().bias
        causal_part = label_products(causal, weight[:, : self.dim])
        causal_part = causal_part if bias is None else causal_part + bias
        return causal_part, label_products(confounders.to(causal.dtype), weight[:, -self.dim :])

    def _phi(self) -> GroupLinear:
        if not isinstance(self.classifier, GroupLinear):
            raise ValueError(
                "the intervention has no labels (num_classes=0); give it some with reset_classes(num_classes)"
            )
        return self.classifier

    def extra_repr(self) -> str:
        """Options, for printing."""
        return f"combine={self.combine!r}, strategy={self.strategy!r}"


def _other_images(batch: int, device: torch.device) -> Tensor:
    """Return the (B, B - 1) indices of all images but the row's own."""
    image = torch.arange(batch, device=device)
    return (image[:, None] + 1 + image[: batch - 1]) % max(batch, 1)


def _draw(high: int, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    drawn_on = device if generator is None else generator.device
    return torch.randint(high, (count,), generator=generator, device=drawn_on).to(device)
