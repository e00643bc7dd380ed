"""Convert the parameter names of other libraries to timm's.

timm, DINOv2, MAE, EVA-X and torchxrayvision use timm's names, sometimes with a prefix. So do torchvision's ResNets
and DenseNets (timm renames the keys of old DenseNet files). torchvision's ConvNeXt, Swin and vision transformers and
transformers' DINOv2 are the same networks under other names. Other families differ in more than names.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["as_timm"]

WRAPPER = r"(?:(?:module|model|encoder|backbone|dinov2|visual|trunk)\.)*"
MASKED = ("decoder_", "lm_head.")  # predict the pixels or tokens masked in pretraining
QKV = r"\.(q|k|v)(?:uery|ey|alue|_proj)\."
# torchvision numbers stages (1, 3, 5, 7) and the downsampling between them (2, 4, 6) in one list.
STAGES = [(rf"^features\.{k}\.", f"stages.{k // 2}.{'blocks' if k % 2 else 'downsample'}.") for k in range(1, 8)]
# For each layout: a pattern of a name unique to it, and the substitutions to timm's names, applied in order.
LAYOUTS: dict[str, list[tuple[str, str]]] = {
    r"features\.1\.0\.layer_scale": [  # torchvision's ConvNeXt
        *STAGES,
        (r"^features\.0\.", "stem."),
        (r"^(stages\.\d+\.blocks\.\d+)\.block\.0\.", r"\1.conv_dw."),
        (r"^(stages\.\d+\.blocks\.\d+)\.block\.2\.", r"\1.norm."),
        (r"^(stages\.\d+\.blocks\.\d+)\.block\.3\.", r"\1.mlp.fc1."),
        (r"^(stages\.\d+\.blocks\.\d+)\.block\.5\.", r"\1.mlp.fc2."),
        (r"\.layer_scale$", ".gamma"),
        (r"^classifier\.0\.", "head.norm."),
        (r"^classifier\.2\.", "head.fc."),
    ],
    r"features\.1\.0\.attn\.relative_position_index": [  # torchvision's Swin
        *STAGES,
        (r"^stages\.", "layers."),
        (r"^features\.0\.0\.", "patch_embed.proj."),
        (r"^features\.0\.2\.", "patch_embed.norm."),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.3\.", ".mlp.fc2."),
        (r"^head\.", "head.fc."),
    ],
    r"encoder\.layers\.encoder_layer_0\.ln_1\.weight": [  # torchvision's vision transformer
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
    ],
    r"encoder\.layer\.0\.layer_scale1\.lambda1": [  # transformers' DINOv2, to the original's names, which timm converts
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.", ""),
        (r"^encoder\.layer\.", "blocks."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.attention\.(?:attention\.)?(?:query|key|value|[qkv]_proj)\.", ".attn.qkv."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.w12."),
        (r"\.mlp\.weights_out\.", ".mlp.w3."),
        (r"^layernorm\.", "norm."),
    ],
}


def as_timm(weights: Mapping[str, Tensor], stem: str, heads: Sequence[str] = ()) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a backbone under timm's names, and the original names of unused weights.

    Classifiers, parts needed only for pretraining, and weights outside the backbone's prefix are unused.

    Args:
        weights: Weights named as in timm or one of the layouts above, with or without a prefix such as `module.`.
        stem: Name of the backbone's first layer in timm.
        heads: Names of its classifiers in timm.
    """
    known, prefix, rules = {**LAYOUTS, re.escape(f"{stem}.weight"): []}, "", []
    for marker, name in ((marker, name) for marker in known for name in weights):
        if match := re.fullmatch(f"({WRAPPER}){marker}", name):
            prefix, rules = match[1], known[marker]
            break
    below = [name.removeprefix(prefix) for name in weights if name.startswith(prefix)]
    unused = ("op_threshs", *(f"{head}." for head in heads), *MASKED)
    if any(name.startswith(MASKED) for name in below):
        unused += ("mask_token",)  # otherwise keep it: timm recognises DINOv2 by it
    parts: dict[str, dict[str, Tensor]] = {}
    for name in below:
        renamed = name
        for pattern, replacement in rules:
            renamed = re.sub(pattern, replacement, renamed)
        computed = rules and renamed.endswith(".relative_position_index")
        if not renamed.startswith(unused) and not computed:
            parts.setdefault(renamed, {})[name] = weights[prefix + name]
    used = {prefix + name for names in parts.values() for name in names}
    return {name: _whole(part) for name, part in parts.items()}, [name for name in weights if name not in used]


def _whole(parts: dict[str, Tensor]) -> Tensor:
    """Return a weight in timm's shape: concatenate query, key and value, and flatten torchvision's layer scale."""
    if len(parts) > 1:
        letters = {found[1]: weight for name, weight in parts.items() if (found := re.search(QKV, name))}
        return torch.cat([letters[letter] for letter in "qkv" if letter in letters])
    ((name, weight),) = parts.items()
    return weight.flatten() if name.endswith(".layer_scale") else weight
