"""What decides a run on NIH ChestX-ray14: its options, and the model, the loss and the data that they make."""

import argparse
import dataclasses
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import causalcxr
from causalcxr.data import NIH_LABELS, NIHChestXray14, SyntheticCXR
from causalcxr.losses import AsymmetricLoss, CausalLoss, classification_loss

CHOICES = {
    "loss": ("bce", "asymmetric"),
    "complement": ("normalized", "paper"),
    "combine": ("add", "cat"),
    "partners": ("all", "random"),
    "uniform": ("categorical", "bernoulli"),
    "amp": ("none", "bfloat16", "float16"),
    "bad_images": ("raise", "skip"),
}


@dataclasses.dataclass
class Config:
    """Everything that decides a run; each field is an argument of the same name."""

    data: str = "synthetic:2000"  # folder in the layout of the NIH release, or synthetic:NUMBER
    output: str = "runs/train"
    preset: str = ""  # "paper": optimizer, rate, decay, size and backbone of arXiv 2305.12072, which gives no others
    model: str = "causal_efficientnet_lite0"  # one of causalcxr.list_models(), or any timm model as a plain classifier
    backbone_weights: str = ""  # path of a file, or "timm" to download
    backbone: str = ""  # for causal_timm
    dim: int = 0  # width of the causal head; 0: the model's own
    output_stride: int = 0  # of the backbone; 0: the model's own
    image_size: int = 128
    epochs: int = 6
    batch_size: int = 64  # over all processes
    optimizer: str = "adamw"
    lr: float = 5e-4  # maximum of the one-cycle schedule
    weight_decay: float = 0.05
    warmup: float = 0.2  # part of the schedule in which the rate rises
    clip_grad: float = 1.0  # 0: off
    ema_decay: float = 0.99
    prior_bias: bool = False  # start the classifiers' biases at the log-odds of the training labels, not at zero
    drop_rate: float = 0.1
    drop_path_rate: float = 0.0
    layer_decay: float = 1.0  # factor of the rate from each layer group of the backbone to the one below
    loss: str = "bce"  # or "asymmetric"
    alpha_conf: float = 1.0
    alpha_bd: float = 0.5
    bank_size: int = 1024  # confounders of past batches; 0: those of the batch
    feature_learning: bool = True  # False: a 1x1 convolution in its place
    complement: str = "normalized"  # or "paper"
    combine: str = "add"  # or "cat"
    partners: str = "all"  # or "random"
    uniform: str = "categorical"  # or "bernoulli"
    rotate: float = 8.0  # degrees, at most
    scale: float = 0.1  # larger or smaller, at most
    shift: float = 0.05  # part of the side, at most
    contrast: float = 0.15  # stronger or weaker, and brighter or darker, at most
    mirror: bool = False  # half of the images, left to right
    freeze_norm: bool = False  # leave the batch statistics as they are, for batches of few images a process
    amp: str = "none"  # "bfloat16" or "float16"
    val_fraction: float = 0.1
    split_seed: int = 0  # of the division into training and validation, or of the generated radiographs
    seed: int = 0  # of everything else
    workers: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    bad_images: str = "raise"  # "skip" to leave unreadable files out

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}, expected one of {known}")

    @property
    def augmentation(self) -> dict[str, Any]:
        """Arguments of `augment`."""
        return {name: getattr(self, name) for name in ("seed", "rotate", "scale", "shift", "contrast", "mirror")}


PRESETS: dict[str, dict[str, Any]] = {
    "": {},
    "paper": dict(model="causal_resnet101", image_size=512, optimizer="adam", lr=1e-3, weight_decay=1e-2),
}


def parse_config(argv: list[str] | None = None) -> Config:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Config):
        flag = f"--{field.name.replace('_', '-')}"
        kind = {"action": argparse.BooleanOptionalAction} if field.type is bool else {"type": type(field.default)}
        parser.add_argument(flag, **kind, default=argparse.SUPPRESS, help=f"default: {field.default}")
    given = vars(parser.parse_args(argv))
    preset = given.get("preset", "")
    if preset not in PRESETS:
        parser.error(f"unknown preset {preset!r}; there are {sorted(filter(None, PRESETS))}")
    return Config(**{**PRESETS[preset], **given})


def build_model(config: Config) -> nn.Module:
    """Build the causal model, or the plain timm model that it is compared with."""
    weights: bool | str = True if config.backbone_weights == "timm" else config.backbone_weights
    common: dict[str, Any] = {"drop_rate": config.drop_rate, "drop_path_rate": config.drop_path_rate}
    common |= {"output_stride": config.output_stride} if config.output_stride else {}
    if not causalcxr.is_model(config.model):
        overlay = {"file": weights} if isinstance(weights, str) and weights else None
        options = {"num_classes": len(NIH_LABELS), "pretrained_cfg_overlay": overlay, **common}
        return timm.create_model(config.model, pretrained=bool(weights), **options)
    options = {name: getattr(config, name) for name in ("complement", "combine")} | common
    options |= {name: value for name in ("backbone", "dim") if (value := getattr(config, name))}
    model = causalcxr.create_model(config.model, pretrained_backbone=weights or False, **options)
    if not config.feature_learning:
        model.head.feature_learning = model.head.feature_learning.input_proj
    return model


def start_at_prior(model: nn.Module, targets: Tensor) -> None:
    """Let a fresh classifier predict the frequency of each label (Lin et al., *Focal Loss*, ICCV 2017, section 4.1).

    The confounding classifier is left at one half: it is to predict nothing.

    Args:
        model: The model, causal or plain.
        targets: (N, K) labels of the training images; a label that is never or always there counts as one image.
    """
    frequency = targets.mean(dim=0).clamp(1 / len(targets), 1 - 1 / len(targets))
    classifiers = [model.get_classifier()]
    if isinstance(model, causalcxr.CausalCXR):
        classifiers.append(model.head.intervention.classifier)
    for classifier in classifiers:
        nn.init.zeros_(classifier.bias)
        classifier.bias.data.add_(frequency.logit().view_as(classifier.bias).to(classifier.bias))


class PlainObjective(nn.Module):
    """The plain classifier with the same classification loss, called as `CausalObjective` is."""

    def __init__(self, model: nn.Module, classification: Any) -> None:
        super().__init__()
        self.model, self.classification = model, classification

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": self.classification(self.model(images), targets)}


def build_bank(config: Config, model: nn.Module) -> causalcxr.layers.ConfounderBank | None:
    """Build the memory of confounders; a plain model and a size of 0 have none."""
    if not (config.bank_size and isinstance(model, causalcxr.CausalCXR)):
        return None
    return causalcxr.layers.ConfounderBank(config.bank_size, model.num_classes, model.head_hidden_size)


def build_objective(config: Config, model: nn.Module) -> nn.Module:
    if not isinstance(model, causalcxr.CausalCXR):
        return PlainObjective(model, {"bce": classification_loss, "asymmetric": AsymmetricLoss()}[config.loss])
    options = {"classification": AsymmetricLoss()} if config.loss == "asymmetric" else {}
    options |= {"uniform": config.uniform, "partners": config.partners}
    criterion = CausalLoss(config.alpha_conf, config.alpha_bd, **options)
    return causalcxr.CausalObjective(model, criterion, bank=build_bank(config, model))


def build_dataset(config: Config, split: str) -> Dataset:
    if config.data.startswith("synthetic:"):
        length = int(config.data.removeprefix("synthetic:"))
        number = {"train": length, "val": max(length // 4, 64), "test": max(length // 2, 64)}[split]
        seed = 3 * config.split_seed + ("train", "val", "test").index(split)  # other radiographs for every split
        return SyntheticCXR(number, image_size=config.image_size, seed=seed)
    options = {"val_fraction": config.val_fraction, "seed": config.split_seed, "bad_images": config.bad_images}
    return NIHChestXray14(config.data, split, image_size=config.image_size, **options)
