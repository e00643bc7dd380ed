"""Backbones that others trained on chest radiographs, by short names: what they are, and which images they know."""

from typing import Any, NamedTuple

__all__ = ["BACKBONES", "PublishedBackbone", "list_backbones"]


class PublishedBackbone(NamedTuple):
    """Weights that somebody published, as their card and their code describe them."""

    name: str
    """What `create_model("causal_timm", backbone=...)` takes."""
    architecture: str
    """Name of the network in timm."""
    pixels: int
    """Side of the images."""
    channels: int
    """Channels of the images."""
    mean: float
    """Mean of the pixels in [0, 1], which is subtracted."""
    std: float
    """What the result is divided by."""
    license: str
    """Licence of the weights, as their card says."""
    address: str
    """`hf-hub:owner/repo[@commit]:file`, or where a pickle is, which has to be fetched and converted by hand."""
    citation: str
    """Whom to cite."""
    backbone_args: dict[str, Any]
    """Arguments of the network in timm that differ from its defaults."""


VIT = {"dynamic_img_size": True, "dynamic_img_pad": True}
EVA_X = {**VIT, "patch_size": 16, "ref_feat_shape": (14, 14), "global_pool": "token"}
RAD_DINO = "Pérez-García et al., Nature Machine Intelligence 7, 2025, doi 10.1038/s42256-024-00965-w"
MEDICAL_MAE = "Xiao et al., WACV 2023, arXiv 2210.12843; converted by 1aurent"
EVA = "Yao et al., npj Digital Medicine 8, 2025, doi 10.1038/s41746-025-02032-z"
XRV = "Cohen et al., TorchXRayVision, MIDL 2022, arXiv 2111.00595"
XRV_FILES = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
XRV_DENSENETS = {
    "all": "nih-pc-chex-mimic_ch-google-openi-kaggle",
    "nih": "nih",
    "pc": "pc",
    "chex": "chex",
    "rsna": "kaggle",
    "mimic_nb": "mimic_nb",
    "mimic_ch": "mimic_ch",
}

_ROWS = [
    PublishedBackbone(
        *("rad_dino", "vit_base_patch14_dinov2", 518, 3, 0.5307, 0.2583, "mit"),
        "hf-hub:microsoft/rad-dino@23589fe9321302b1138a6b6e6f26c349fdbcd752:model.safetensors",
        *(RAD_DINO, VIT),
    ),
    PublishedBackbone(
        *("medmae_densenet121", "densenet121", 224, 3, 0.5056, 0.252, "apache-2.0"),
        "hf-hub:1aurent/densenet121.medmae_CXR_mae@b5ad609877e8a03cf983c78147f5be05543adde4:model.safetensors",
        *(MEDICAL_MAE, {}),
    ),
    PublishedBackbone(
        *("medmae_vit_small", "vit_small_patch16_224", 224, 3, 0.5056, 0.252, "apache-2.0"),
        *("hf-hub:1aurent/vit_small_patch16_224.medmae_CXR_mae:model.safetensors", MEDICAL_MAE, VIT),
    ),
    PublishedBackbone(
        *("medmae_vit_base", "vit_base_patch16_224", 224, 3, 0.5056, 0.252, "apache-2.0"),
        *("hf-hub:1aurent/vit_base_patch16_224.medmae_CXR_mae:model.safetensors", MEDICAL_MAE, VIT),
    ),
    *(
        PublishedBackbone(
            *(f"eva_x_{size}", architecture, 224, 3, 0.49185243, 0.28509309, "mit"),
            f"https://huggingface.co/MapleF/eva_x/blob/main/eva_x_{size}_patch16_merged520k_mim.pt",
            *(EVA, EVA_X | more),
        )
        for size, architecture, more in (
            ("tiny", "eva02_tiny_patch14_224", {}),
            ("small", "eva02_small_patch14_224", {}),
            ("base", "eva02_base_patch16_clip_224", {"scale_attn_inner": False}),
        )
    ),
    *(
        PublishedBackbone(
            *(f"xrv_densenet121_{trained_on}", "densenet121", 224, 1, 0.5, 1 / 2048, "apache-2.0"),
            f"{XRV_FILES}{files}-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
            *(XRV, {}),
        )
        for trained_on, files in XRV_DENSENETS.items()
    ),
    PublishedBackbone(
        *("xrv_resnet50_all", "resnet50", 512, 1, 0.5, 1 / 2048, "apache-2.0"),
        *(f"{XRV_FILES}pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt", XRV, {}),
    ),
]
BACKBONES = {row.name: row for row in _ROWS}


def list_backbones() -> list[PublishedBackbone]:
    """Return the table of backbones that others trained on chest radiographs; `pandas.DataFrame` takes it.

    Example:
        >>> next(row.pixels for row in list_backbones() if row.name == "rad_dino")
        518
    """
    return list(BACKBONES.values())
