"""The CausalCXR model: a timm backbone with the causal head.

Reference: Nie et al., *Chest X-ray Image Classification: A Causal Perspective*, arXiv 2305.12072.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import auto_group_layers
from torch import Tensor, nn

from causalcxr._checks import check_tensor, readable
from causalcxr._modes import eval_mode
from causalcxr.calibration import Calibration, checked_calibration, weights_checksum
from causalcxr.data.image import ImageLike
from causalcxr.data.labels import check_label_names, checked_names
from causalcxr.data.transforms import preprocess
from causalcxr.layers import ConfounderBank
from causalcxr.models.backbone import create_backbone, feature_map
from causalcxr.models.causal_head import CausalHead
from causalcxr.outputs import CausalOutput

__all__ = ["CausalCXR"]

# Normalised radiographs stay within about +-3. Raw pixels (0 to 255) and Hounsfield-like values do not.
MAX_ABS_INPUT = 20.0


class CausalCXR(nn.Module):
    """Causal chest X-ray classifier on any timm backbone that returns a feature map.

    Args:
        backbone: Name of a timm model.
        num_classes: Number of labels K. With 0, `forward` returns the mean of the encoded map, (B, D).
        in_chans: Number of image channels.
        dim: Width D of encoder and decoder.
        num_heads: Number of attention heads.
        depth: Number of decoder layers.
        complement: `"normalized"` or `"paper"`, see `causalcxr.layers.DisentangledCrossAttention`.
        combine: `"add"` or `"cat"`, see `causalcxr.layers.BackdoorIntervention`.
        output_stride: Stride of the feature map in pixels. Default: 16 if the backbone supports it, else its own.
        drop_rate: Dropout rate of the head.
        drop_path_rate: Stochastic depth rate of the backbone. Default: the backbone's own, 0 for most.
        pretrained_backbone: True for timm's published weights, or the source of others: a file, a folder with
            `model.safetensors`, or `"hf-hub:owner/repo[@revision][:file]"`. Parameter names may be those of timm,
            torchvision, transformers' DINOv2 or torchxrayvision. The logger `causalcxr` reports unused weights. A
            pickle must be a local file and is opened with `torch.load(weights_only=True)`.
        backbone_args: Additional arguments for the backbone's constructor.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Shape:
        - Input: (B, C, H, W) normalised images, of any size that the backbone accepts
        - Output: (B, K) logits

    Raises:
        ValueError: If the backbone is unknown or returns no feature map, weights do not fit, images have the wrong
            shape or number of channels or are not normalised, or an option is unknown.
        TypeError: If images are not a floating-point tensor.

    Example:
        >>> import torch
        >>> model = CausalCXR("test_resnet", dim=64)
        >>> model(torch.randn(2, 3, 96, 96)).shape
        torch.Size([2, 14])
    """

    backbone: Any  # a timm model, whose methods Module does not declare
    pretrained_cfg: dict[str, Any]  # set by timm's builder

    def __init__(
        self,
        backbone: str = "resnet101",
        *,
        num_classes: int = 14,
        in_chans: int = 3,
        dim: int = 256,
        num_heads: int = 8,
        depth: int = 2,
        complement: str = "normalized",
        combine: str = "add",
        output_stride: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        pretrained_backbone: bool | str | Path = False,
        backbone_args: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_chans < 1:
            raise ValueError(f"in_chans must be at least 1, but got {in_chans}")
        self.in_chans = in_chans
        with torch.device(device or torch.get_default_device()):
            self.backbone, in_chs, self.reduction = create_backbone(
                backbone,
                in_chans=in_chans,
                output_stride=output_stride,
                drop_path_rate=drop_path_rate,
                pretrained=pretrained_backbone,
                backbone_args=backbone_args,
            )
            self.head = CausalHead(
                in_chs,
                num_classes,
                dim=dim,
                num_heads=num_heads,
                depth=depth,
                complement=complement,
                combine=combine,
                drop_rate=drop_rate,
            )
        self.num_features, self.head_hidden_size = in_chs, dim
        self._label_names: tuple[str, ...] | None = None
        self._calibration: Calibration | None = None
        self.to(dtype=dtype)
        self.feature_info = [
            {**info, "module": f"backbone.{info['module']}"} for info in list(self.backbone.feature_info)
        ]

    @property
    def num_classes(self) -> int:
        """Number of labels K."""
        return self.head.num_classes

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Names of the labels in the order of the logits, or None if not set.

        Once set, they cannot be replaced by other names. Call `reset_classifier` for new labels.
        """
        return self._label_names

    @label_names.setter
    def label_names(self, names: Sequence[str] | None) -> None:
        given = checked_names(names, self.num_classes)
        if given is not None and self._label_names is not None:
            check_label_names(given, self._label_names)
        self._label_names = given

    @property
    def calibration(self) -> Calibration | None:
        """Temperature and thresholds fitted to the weights, or None.

        They apply to the weights at the time of setting. `save_pretrained` omits them if the weights have changed
        since.
        """
        return self._calibration

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        if calibration is not None:
            checked_calibration(calibration, self.num_classes)
            self._calibrated = calibration, weights_checksum(self)
        self._calibration = calibration

    def forward(self, x: Tensor) -> Tensor:
        """Return the causal logits z_x, (B, K)."""
        return self.forward_head(self.forward_features(x))

    def forward_causal(
        self, x: Tensor, confounders: Tensor | None = None, need_attention: bool = False
    ) -> CausalOutput:
        """Return all three predictions and the features behind them.

        Args:
            x: (B, C, H, W) normalised images.
            confounders: (S, K, D) confounder features to borrow, e.g. `ConfounderBank.features`. Default: those of the
                other images in the batch.
            need_attention: Whether to return attention maps. The decoder then uses unfused attention.
        """
        return self.head(self.forward_features(x), confounders, need_attention=need_attention)

    def preprocess(
        self, image: ImageLike | Sequence[ImageLike], *, size: int | tuple[int, int] | None = None
    ) -> Tensor:
        """Read a radiograph, then resize and normalise it as `pretrained_cfg` specifies.

        Args:
            image: A path, open file, Pillow image, array or tensor, see `causalcxr.data.read_image`, or a list of them.
            size: Side or (height, width). Default: that of `pretrained_cfg["input_size"]`.

        Returns:
            A batch (B, C, H, W) on the model's device and in its dtype. B is 1 for a single image.

        Raises:
            ValueError: If the model has no `pretrained_cfg`, or the image is invalid.
        """
        cfg = getattr(self, "pretrained_cfg", None)
        if cfg is None:
            raise ValueError(
                "the model has no pretrained_cfg to define the image scaling; build it with causalcxr.create_model"
            )
        return preprocess(image, cfg, size=size).to(next(self.parameters()))

    @torch.no_grad()
    def predict_do(self, x: Tensor, bank: ConfounderBank) -> Tensor:
        r"""Return the backdoor-adjusted probabilities (B, K) in at least float32 (arXiv 2305.12072, Eq. 1).

        .. math:: P(Y \mid do(X)) = \sum_c P(c) \, \sigma(\Phi(h_x + c))

        They come from the intervention's classifier Phi. Its ranking of images differs from that of `model(x)`, which
        uses Phi_x. The model runs in evaluation mode.

        Args:
            x: (B, C, H, W) normalised images.
            bank: Confounder features c, equally probable, collected from training images by `CausalObjective`.
        """
        if not len(bank):
            raise ValueError("the bank is empty; call bank.update with confounder features first")
        with eval_mode(self):
            intervened = self.forward_causal(x, bank.features).intervened
        return intervened.to(torch.promote_types(intervened.dtype, torch.float32)).sigmoid().mean(dim=1)  # P(c) = 1 / S

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the backbone's feature map (B, C, H, W), C = `num_features`."""
        self._check_images(x)
        return feature_map(self.backbone, x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, K) of a feature map (B, C, H, W).

        With `pre_logits`, return the causal features h_x (B, K, D) instead, D = `head_hidden_size`. With
        `num_classes=0`, both are the mean of the encoded map, (B, D).
        """
        if self.num_classes == 0:
            return self.head.feature_learning(x).mean(dim=(-2, -1))
        nobody = x.new_zeros(0, self.num_classes, self.head_hidden_size)  # a plain prediction borrows no confounders
        output = self.head(x, nobody)
        return output.causal if pre_logits else output.logits

    def forward_intermediates(self, x: Tensor, indices: int | list[int] | None = None, **kwargs: Any) -> Any:
        """Return `forward_features(x)` and the backbone's intermediate feature maps, as timm's models do.

        The backbone runs twice, once for each, unless `intermediates_only=True`.

        Args:
            x: (B, C, H, W) normalised images.
            indices: Indices of the maps, or the last n. Default: all.
            **kwargs: `norm`, `stop_early`, `output_fmt` and `intermediates_only`, as in timm.
        """
        self._check_images(x)
        if kwargs.get("intermediates_only"):
            return self.backbone.forward_intermediates(x, indices=indices, **kwargs)
        _, intermediates = self.backbone.forward_intermediates(x, indices=indices, **kwargs)
        return feature_map(self.backbone, x), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the backbone layers after the deepest index and, with `prune_head`, the classifiers."""
        if prune_head:
            self.reset_classifier(0)
        return self.backbone.prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=prune_head)

    def get_classifier(self) -> nn.Module:
        """Return the classifier of the causal branch, Phi_x."""
        return self.head.causal_classifier

    def reset_classifier(self, num_classes: int, global_pool: None = None) -> None:
        """Replace the label embeddings and all three classifiers, for `num_classes` labels; 0 for pooled features.

        Also set `model.label_names` and `model.calibration` to None. `global_pool` exists for compatibility with timm.
        The head does not pool, so any value other than None raises `ValueError`.
        """
        if global_pool is not None:
            raise ValueError(f"global_pool must be None, since the causal head does not pool, but got {global_pool!r}")
        self.head.reset_classifier(num_classes)
        self.label_names = self.calibration = None

    def group_matcher(self, coarse: bool = False) -> Any:
        """Group the backbone's parameters by depth for layer-wise learning rates; the head comes last."""
        if hasattr(self.backbone, "group_matcher"):
            matcher = self.backbone.group_matcher(coarse=coarse)
        else:
            matcher = auto_group_layers(self.backbone).__getitem__  # timm's own fallback
        groups = {f"backbone.{name}": i for name, i in group_parameters(self.backbone, matcher, reverse=True).items()}
        return lambda name: groups.get(name, math.inf)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters to exclude from weight decay."""
        backbone: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in backbone} | {"head.decoder.label_embed.weight"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward pass instead of storing them."""
        self.backbone.set_grad_checkpointing(enable)

    def _check_images(self, x: Tensor) -> None:
        check_tensor("images", x, "B C H W", C=self.in_chans)
        # Only check values on the CPU: reading them would synchronise an accelerator on every step.
        if readable(x) and x.numel():
            largest = float(x.detach().abs().amax())
            # torchxrayvision backbones expect -1024 to 1024, hence their std of 1 / 2048.
            limit = max(MAX_ABS_INPUT, 1 / min(getattr(self, "pretrained_cfg", {}).get("std") or [1.0]))
            if not largest <= limit:
                raise ValueError(
                    f"images must be normalised, within +-{limit:g}, but reach {largest:g}; scale pixels to "
                    "[0, 1], subtract the mean and divide by the standard deviation of model.pretrained_cfg"
                )
