"""Names that torchvision gives to weights, as timm's names.

ResNets, ResNeXts and DenseNets have the same names in both (timm renames those of old DenseNet files). ConvNeXt, Swin
and vision transformers are the same networks under other names; other families differ in more than names.
"""

import re

from torch import Tensor

__all__ = ["as_timm"]

Rules = list[tuple[str, str]]

CONVNEXT: Rules = [
    (r"^features\.0\.", "stem."),
    (r"^(stages\.\d+\.blocks\.\d+)\.block\.0\.", r"\1.conv_dw."),
    (r"^(stages\.\d+\.blocks\.\d+)\.block\.2\.", r"\1.norm."),
    (r"^(stages\.\d+\.blocks\.\d+)\.block\.3\.", r"\1.mlp.fc1."),
    (r"^(stages\.\d+\.blocks\.\d+)\.block\.5\.", r"\1.mlp.fc2."),
    (r"\.layer_scale$", ".gamma"),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
]
SWIN: Rules = [
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.", "head.fc."),
]
VIT: Rules = [
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
]


def as_timm(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under timm's names if they have torchvision's, else as they are."""
    if "features.1.0.layer_scale" in state_dict:
        flat = {name: w.flatten() if name.endswith(".layer_scale") else w for name, w in state_dict.items()}
        return _renamed(flat, CONVNEXT, stages="stages")
    if "features.1.0.attn.relative_position_index" in state_dict:
        computed = ".relative_position_index"  # timm computes it from the size of the window
        kept = {name: weight for name, weight in state_dict.items() if not name.endswith(computed)}
        return _renamed(kept, SWIN, stages="layers")
    if "encoder.layers.encoder_layer_0.ln_1.weight" in state_dict:
        return _renamed(state_dict, VIT)
    return state_dict


def _renamed(state_dict: dict[str, Tensor], rules: Rules, stages: str = "") -> dict[str, Tensor]:
    return {_rename(name, rules, stages): weight for name, weight in state_dict.items()}


def _rename(name: str, rules: Rules, stages: str) -> str:
    # torchvision counts stages and the downsampling between them as one list: 1, 3, 5, 7 and 2, 4, 6.
    if match := re.match(r"features\.([1-7])\.", name):
        place = int(match[1])
        part = "blocks" if place % 2 else "downsample"
        name = f"{stages}.{place // 2}.{part}.{name[match.end() :]}"
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
