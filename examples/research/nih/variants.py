"""The compared variants: models and their objectives."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import causalcxr
from causalcxr.data import NIH_LABELS
from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss

BANK = 1024


@dataclass(frozen=True)
class Variant:
    """One row of the study.

    Args:
        causal: Whether the model has the causal head. Otherwise it is the pooled backbone with a linear classifier.
        objective: "classification", "causal", or "agreement" for `causalcxr.AgreementObjective`.
        small_start: Whether the weights of a plain classifier start near zero instead of timm's initialisation.
        adjust_view: Whether labels are weighted to be independent of the view.
        model_args: Additional arguments of the model.
        random_partner: Whether Eq. 6 uses one random partner per image from the batch, as printed, instead of all pairs
            with a bank of past confounders.
        loss_args: Arguments of `CausalLoss`.
    """

    causal: bool = False
    objective: str = "classification"
    small_start: bool = False
    adjust_view: bool = False
    random_partner: bool = False
    model_args: dict[str, Any] = field(default_factory=dict)
    loss_args: dict[str, Any] = field(default_factory=dict)


QUERIES = {"alpha_conf": 0.0, "alpha_bd": 0.0}
VARIANTS = {
    "plain": Variant(),
    "label_queries": Variant(causal=True, objective="causal", loss_args=QUERIES),
    "causal": Variant(causal=True, objective="causal"),
    "plain_view": Variant(adjust_view=True),
    "label_queries_view": Variant(causal=True, objective="causal", adjust_view=True, loss_args=QUERIES),
    "plain_agreement": Variant(objective="agreement"),
    "plain_small": Variant(small_start=True),
    "plain_agreement_small": Variant(objective="agreement", small_start=True),
    "as_printed": Variant(causal=True, objective="causal", random_partner=True, model_args={"complement": "paper"}),
}


def build_model(
    variant: Variant, *, backbone: str, weights: str, start: str, drop_rate: float, drop_path_rate: float
) -> nn.Module:
    """Build the model of a variant.

    `weights` is a file of backbone weights, and `start` is a file of weights of a whole model. Either may be empty.
    """
    common = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate, **variant.model_args}
    if not variant.causal:
        overlay = {"file": weights} if weights else None
        name = {"causal_efficientnet_lite0": "tf_efficientnet_lite0", "causal_test_resnet": "test_resnet"}[backbone]
        model = timm.create_model(
            name,
            pretrained=bool(weights),
            pretrained_cfg_overlay=overlay,
            num_classes=len(NIH_LABELS),
            output_stride=16,
            **common,
        )
        if variant.small_start:
            model.reset_classifier(len(NIH_LABELS))
    else:
        model = causalcxr.create_model(backbone, pretrained_backbone=not start and (weights or False), **common)
    if start:
        model.load_state_dict(load_file(start))
    return model


def open_run(weights: Path) -> nn.Module:
    """Return the trained model of a run, from its weights and the record next to them."""
    run = json.loads(weights.with_suffix(".json").read_text())
    options = {"backbone": run["setting"]["backbone"], "weights": "", "drop_rate": 0, "drop_path_rate": 0}
    return build_model(VARIANTS[run["variant"]], start=str(weights), **options).eval()


def start_at_prior(model: nn.Module, targets: Tensor, weight: Tensor) -> None:
    """Initialise classifiers to the frequency of each label (Lin et al., *Focal Loss*, ICCV 2017, section 4.1).

    The confounding classifier stays at one half, since it should predict nothing.
    """
    frequency = (targets * weight).mean(dim=0).clamp(1 / len(targets), 1 - 1 / len(targets))
    biases = [model.get_classifier().bias]
    if isinstance(model, causalcxr.CausalCXR):
        biases.append(model.head.intervention.classifier.bias)
    with torch.no_grad():
        for bias in biases:
            bias.copy_(frequency.logit().view_as(bias))


def build_objective(variant: Variant, model: nn.Module) -> nn.Module:
    """Return the objective, which maps images, targets and weights to losses."""
    if variant.objective == "classification":
        return causalcxr.ClassificationObjective(model)
    if variant.objective == "agreement":
        return causalcxr.AgreementObjective(model)
    bank = None if variant.random_partner else ConfounderBank(BANK, len(NIH_LABELS), model.head_hidden_size)
    partners = "random" if variant.random_partner else "all"
    return causalcxr.CausalObjective(model, CausalLoss(partners=partners, **variant.loss_args), bank=bank)


def branches(model: nn.Module, images: Tensor, targets: Tensor, objective: nn.Module) -> dict[str, float]:
    """Return the mean norm of h_c, and the gradient norms of L_sl and alpha_1 L_conf in the encoder, on one batch."""
    model.eval()
    output = model.forward_causal(images)
    losses = objective.criterion(output, targets)
    encoder = list(model.head.feature_learning.parameters())
    figures = {"norm_confounder": output.confounder.detach().norm(dim=-1).mean()}
    for name, factor in {"sl": 1.0, "conf": objective.criterion.alpha_conf}.items():
        gradients = torch.autograd.grad(factor * losses[name], encoder, retain_graph=True)
        figures[f"gradient_{name}_encoder"] = torch.cat([each.flatten() for each in gradients]).norm()
    return {name: float(f"{float(value):.6g}") for name, value in figures.items()}
