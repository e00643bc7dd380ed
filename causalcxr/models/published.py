"""Published backbones trained on chest radiographs, by short name, and the images that they expect."""

from typing import Any, NamedTuple

__all__ = ["BACKBONES", "PublishedBackbone", "list_backbones"]


class PublishedBackbone(NamedTuple):
    """Published weights, as their model card and code describe them."""

    name: str
    """Name to pass to `create_model("causal_timm", backbone=...)`."""
    architecture: str
    """Name of the network in timm."""
    pixels: int
    """Height and width of the images."""
    channels: int
    """Number of channels of the images."""
    mean: float
    """Value to subtract from pixels in [0, 1]."""
    std: float
    """Value to divide the result by."""
    license: str
    """Licence of the weights, according to their model card."""
    address: str
    """`hf-hub:owner/repo[@commit]:file`, or the URL of a pickle, which you have to download and convert."""
    citation: str
    """Reference to cite."""
    backbone_args: dict[str, Any]
    """Arguments of the timm network that differ from its defaults."""


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

XRV_IMAGES: dict[str, Any] = {"channels": 1, "mean": 0.5, "std": 1 / 2048}

_ROWS = [
    *(
        PublishedBackbone(
            name=name,
            architecture="vit_base_patch14_dinov2",
            pixels=518,
            channels=3,
            mean=0.5307,
            std=0.2583,
            license=license_,
            address=f"hf-hub:microsoft/{repo}:model.safetensors",
            citation=RAD_DINO,
            backbone_args=VIT,
        )
        for name, license_, repo in (
            ("rad_dino", "mit", "rad-dino@23589fe9321302b1138a6b6e6f26c349fdbcd752"),
            ("rad_dino_maira_2", "other", "rad-dino-maira-2@a6132efb9268859545e9f68be18a76a6473f174a"),
        )
    ),
    *(
        PublishedBackbone(
            name=f"medmae_{short}",
            architecture=architecture,
            pixels=224,
            channels=3,
            mean=0.5056,
            std=0.252,
            license="apache-2.0",
            address=f"hf-hub:1aurent/{architecture}.medmae_CXR_mae{commit}:model.safetensors",
            citation=MEDICAL_MAE,
            backbone_args=args,
        )
        for short, architecture, commit, args in (
            ("densenet121", "densenet121", "@b5ad609877e8a03cf983c78147f5be05543adde4", {}),
            ("vit_small", "vit_small_patch16_224", "", VIT),
            ("vit_base", "vit_base_patch16_224", "", VIT),
        )
    ),
    *(
        PublishedBackbone(
            name=f"eva_x_{size}",
            architecture=architecture,
            pixels=224,
            channels=3,
            mean=0.49185243,
            std=0.28509309,
            license="mit",
            address=f"https://huggingface.co/MapleF/eva_x/blob/main/eva_x_{size}_patch16_merged520k_mim.pt",
            citation=EVA,
            backbone_args=EVA_X | more,
        )
        for size, architecture, more in (
            ("tiny", "eva02_tiny_patch14_224", {}),
            ("small", "eva02_small_patch14_224", {}),
            ("base", "eva02_base_patch16_clip_224", {"scale_attn_inner": False}),
        )
    ),
    *(
        PublishedBackbone(
            name=f"xrv_densenet121_{data}",
            architecture="densenet121",
            pixels=224,
            **XRV_IMAGES,
            license="apache-2.0",
            address=f"{XRV_FILES}{file}-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
            citation=XRV,
            backbone_args={},
        )
        for data, file in XRV_DENSENETS.items()
    ),
    PublishedBackbone(
        name="xrv_resnet50_all",
        architecture="resnet50",
        pixels=512,
        **XRV_IMAGES,
        license="apache-2.0",
        address=f"{XRV_FILES}pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt",
        citation=XRV,
        backbone_args={},
    ),
]
BACKBONES = {row.name: row for row in _ROWS}


def list_backbones() -> list[PublishedBackbone]:
    """Return the published backbones trained on chest radiographs, e.g. to show them with `pandas.DataFrame`.

    Example:
        >>> next(row.pixels for row in list_backbones() if row.name == "rad_dino")
        518
    """
    return list(BACKBONES.values())
