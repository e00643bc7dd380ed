"""The causal head, which turns a feature map into causal, confounding and intervened predictions."""

from typing import Any

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from causalcxr._checks import check_tensor
from causalcxr.layers import BackdoorIntervention, CausalDecoder, FeatureLearning, GroupLinear
from causalcxr.outputs import CausalOutput

__all__ = ["CausalHead"]


class CausalHead(nn.Module):
    """Causal classifier on top of a feature map (arXiv 2305.12072, Fig. 3 without its backbone).

    1. `FeatureLearning` augments the map.
    2. `CausalDecoder` attends to the map with one query per label. Q holds the features that a query attends to, and Qc
       the rest. Qc is nearly the same for all labels.
    3. Two networks refine them: h_x = MLP_causal(Q), h_c = MLP_confounding(Qc) (Eq. 3, which prints Q twice). Each has
       a skip connection, MLP(Q) = Q + W_2 gelu(W_1 Q), which the paper does not specify.
    4. Three classifiers predict: Phi_x from h_x, Phi_c from h_c, and Phi from h_x + h_c' (Eq. 6).

    Args:
        in_chs: Number of channels C of the feature map.
        num_classes: Number of labels K. With 0, call `reset_classifier` before `forward`.
        dim: Width D.
        num_heads: Number of attention heads in the encoder and the decoder.
        depth: Number of decoder layers.
        complement: `"normalized"` or `"paper"`, see `DisentangledCrossAttention`.
        combine: `"add"` or `"cat"`, see `BackdoorIntervention`.
        drop_rate: Dropout rate in the decoder and before the classifiers.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Shape:
        - features: (B, C, H, W)
        - confounders: (S, K, D) to borrow, or `None` to use those of the other images in the batch
        - Output: `CausalOutput`

    Raises:
        ValueError: If a shape does not fit or an option is unknown.
        TypeError: If the features are not a floating-point tensor.

    Example:
        >>> import torch
        >>> head = CausalHead(512, num_classes=14, dim=64)
        >>> output = head(torch.randn(4, 512, 7, 7))
        >>> output.logits.shape, output.intervened.shape
        (torch.Size([4, 14]), torch.Size([4, 3, 14]))
    """

    def __init__(
        self,
        in_chs: int,
        num_classes: int,
        *,
        dim: int = 256,
        num_heads: int = 8,
        depth: int = 2,
        complement: str = "normalized",
        combine: str = "add",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chs, self.dim = in_chs, dim
        self.feature_learning = FeatureLearning(in_chs, dim, num_heads=num_heads, **dd)
        self.decoder = CausalDecoder(
            num_classes, dim, depth=depth, num_heads=num_heads, complement=complement, proj_drop=drop_rate, **dd
        )
        self.causal_mlp = Mlp(dim, **dd)
        self.confounder_mlp = Mlp(dim, **dd)
        self.drop = nn.Dropout(drop_rate)
        self.intervention = BackdoorIntervention(num_classes, dim, combine=combine, **dd)
        self.reset_classifier(num_classes)

    @property
    def num_classes(self) -> int:
        """Number of labels K."""
        return self.decoder.label_embed.num_embeddings

    def reset_classifier(self, num_classes: int) -> None:
        """Replace all label-dependent parameters with new ones for `num_classes` labels, which may be 0."""
        like = self.causal_mlp.fc1.weight
        dd: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.decoder.label_embed = nn.Embedding(num_classes, self.dim, **dd)
        self.intervention = BackdoorIntervention(num_classes, self.dim, combine=self.intervention.combine, **dd)
        self.causal_classifier = GroupLinear(num_classes, self.dim, **dd)
        self.confounder_classifier = GroupLinear(num_classes, self.dim, **dd)

    def forward(
        self, features: Tensor, confounders: Tensor | None = None, *, need_attention: bool = False
    ) -> CausalOutput:
        """Return all three predictions. Shapes are in the class docstring."""
        _check_map(features, self.in_chs)
        return self.decode(self.feature_learning(features), confounders, need_attention=need_attention)

    def decode(
        self, encoded: Tensor, confounders: Tensor | None = None, *, need_attention: bool = False
    ) -> CausalOutput:
        """Return all three predictions for the encoded map (B, D, H, W) from `feature_learning`."""
        if self.num_classes == 0:
            raise ValueError("the head has no labels (num_classes=0); call reset_classifier(num_classes) first")
        decoded = self.decoder(encoded, need_attention=need_attention)
        causal = decoded.causal + self.causal_mlp(decoded.causal)
        confounder = decoded.confounder + self.confounder_mlp(decoded.confounder)
        dropped, own = self.drop(causal), self.drop(confounder)
        if confounders is None:
            intervened = _without_own(self.intervention(dropped, own))
        else:
            check_tensor("confounders", confounders, "S K D")
            intervened = self.intervention(dropped, self.drop(confounders))
        return CausalOutput(
            logits=self.causal_classifier(dropped),
            confounder_logits=self.confounder_classifier(own),
            intervened=intervened,
            causal=causal,
            confounder=confounder,
            attention=decoded.attention,
        )


def _without_own(intervened: Tensor) -> Tensor:
    """Return (B, B - 1, K): remove image i's own confounder from row i and keep the others, cyclically from i + 1."""
    batch = intervened.shape[0]
    image = torch.arange(batch, device=intervened.device)
    following = (image[:, None] + 1 + image[: batch - 1]) % batch  # (B, B - 1)
    return intervened.take_along_dim(following[..., None], dim=1)


def _check_map(features: Tensor, in_chs: int) -> None:
    """Raise unless the features are (B, C, H, W), with a fix for tokens and for channels-last layouts."""
    if isinstance(features, Tensor) and features.ndim == 3 and features.shape[-1] == in_chs:
        raise ValueError(
            f"features must be a map (B, C, H, W), but got tokens {tuple(features.shape)}; drop the prefix tokens and "
            "reshape: tokens[:, num_prefix_tokens:].mT.unflatten(2, (height, width)), or get the map from timm: "
            'backbone.forward_intermediates(x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[0]'
        )
    if isinstance(features, Tensor) and features.ndim == 4 and features.shape[1] != in_chs == features.shape[3]:
        raise ValueError(
            f"features must be a map (B, C, H, W) with C={in_chs}, but got channels last, {tuple(features.shape)}; "
            "use features.permute(0, 3, 1, 2)"
        )
    check_tensor("features", features, "B C H W", C=in_chs)
