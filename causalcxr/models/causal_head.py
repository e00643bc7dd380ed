"""The causal head: from any feature map to causal, confounding and intervened predictions."""

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

    `FeatureLearning` augments the map, `CausalDecoder` splits it into one causal and one confounding feature a label,
    two networks refine them, h_x = MLP_causal(Q) and h_c = MLP_confounding(Qc) (Eq. 3, where the print has Q in both
    lines), and three classifiers predict: Phi_x from h_x, Phi_c from h_c, Phi from h_x + h_c' (Eq. 6). Each network has
    a skip connection, MLP(Q) = Q + W_2 gelu(W_1 Q), which the paper leaves open and without which training was slower.

    Args:
        in_chs: Channels C of the feature map.
        num_classes: Number of labels K; 0 leaves no classifier, see `reset_classifier`.
        dim: Width D.
        num_heads: Number of attention heads in the encoder and the decoder.
        depth: Number of decoder layers.
        complement: `"normalized"` or `"paper"`, see `DisentangledCrossAttention`.
        combine: `"add"` or `"cat"`, see `BackdoorIntervention`.
        strategy: `"full"` or `"random"`, see `BackdoorIntervention`.
        drop_rate: Dropout rate in the decoder and before the classifiers.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        - features: (B, C, H, W)
        - confounders: (S, K, D) or `None` for those of the other images of the batch
        - mask: (B, H, W), boolean, True for cells that take part in the attention, or `None` for all
        - Output: `CausalOutput`

    Raises:
        ValueError: If a shape does not fit or an option is unknown.
        TypeError: If the features are not of floating point.

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
        strategy: str = "full",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim = dim
        self.feature_learning = FeatureLearning(in_chs, dim, num_heads=num_heads, **dd)
        self.decoder = CausalDecoder(
            num_classes, dim, depth=depth, num_heads=num_heads, complement=complement, proj_drop=drop_rate, **dd
        )
        self.causal_mlp = Mlp(dim, **dd)
        self.confounder_mlp = Mlp(dim, **dd)
        self.drop = nn.Dropout(drop_rate)
        self.causal_classifier: nn.Module = nn.Identity()
        self.confounder_classifier: nn.Module = nn.Identity()
        self.intervention = BackdoorIntervention(num_classes, dim, combine=combine, strategy=strategy, **dd)
        self.reset_classifier(num_classes)

    @property
    def num_classes(self) -> int:
        """Number of labels K."""
        return self.decoder.num_classes

    def reset_classifier(self, num_classes: int) -> None:
        """Replace everything whose shape depends on the labels by new parameters for `num_classes` labels, or none."""
        like = self.causal_mlp.fc1.weight
        dd = {"device": like.device, "dtype": like.dtype}
        self.decoder.reset_classes(num_classes, **dd)
        self.intervention.reset_classes(num_classes, **dd)
        for name in ("causal_classifier", "confounder_classifier"):
            setattr(self, name, GroupLinear(num_classes, self.dim, **dd) if num_classes else nn.Identity())

    def forward(
        self,
        features: Tensor,
        confounders: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        need_attention: bool = False,
    ) -> CausalOutput:
        """Return all three predictions, see the class."""
        return self.decode(self.feature_learning(features), confounders, mask=mask, need_attention=need_attention)

    def decode(
        self,
        encoded: Tensor,
        confounders: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        need_attention: bool = False,
    ) -> CausalOutput:
        """Return all three predictions from the encoded map (B, D, H, W) that `feature_learning` returned."""
        if self.num_classes == 0:
            raise ValueError("there are no labels (num_classes=0) to predict; call reset_classifier(num_classes) first")
        decoded = self.decoder(encoded, mask=mask, need_attention=need_attention)
        causal = self.drop(decoded.causal + self.causal_mlp(decoded.causal))
        confounder = self.drop(decoded.confounder + self.confounder_mlp(decoded.confounder))
        return CausalOutput(
            logits=self.causal_classifier(causal),
            confounder_logits=self.confounder_classifier(confounder),
            intervened=self.intervention(causal, confounder, confounders),
            causal=causal,
            confounder=confounder,
            attention=decoded.attention,
        )

    def causal_features(self, encoded: Tensor) -> Tensor:
        """Return h_x (B, K, D) from the encoded map (B, D, H, W); without labels the map's mean, (B, D)."""
        check_tensor("encoded", encoded, "B D H W", D=self.dim)
        if self.num_classes == 0:
            return encoded.mean(dim=(-2, -1))
        decoded = self.decoder(encoded).causal
        return self.drop(decoded + self.causal_mlp(decoded))
