"""The losses of the causal objective as functions of logits."""

import copy
import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr._checks import check_choice, check_tensor, readable

__all__ = ["ElementwiseLoss", "asymmetric_loss", "backdoor_loss", "classification_loss", "uniform_kl_loss"]

ElementwiseLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets (..., K) to the loss of each element, such as `nn.BCEWithLogitsLoss(reduction="none")`."""

cross_entropy: ElementwiseLoss = functools.partial(F.binary_cross_entropy_with_logits, reduction="none")


def without_reduction(criterion: ElementwiseLoss) -> ElementwiseLoss:
    """Return the loss of each element: a copy with `reduction="none"` of a loss of torch, a function as it is."""
    if not callable(criterion) or isinstance(criterion, type):
        raise TypeError(
            "a classification loss is one such as nn.BCEWithLogitsLoss(pos_weight=...) or AsymmetricLoss(), "
            f"but got {criterion!r}"
        )
    if isinstance(criterion, nn.Module) and hasattr(criterion, "reduction"):
        criterion = copy.copy(criterion)
        criterion.reduction = "none"  # type: ignore[assignment]
    return criterion


def classification_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    criterion: ElementwiseLoss = cross_entropy,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross-entropy over labels, unknown ones left out (arXiv 2305.12072, Eq. 4 for several labels).

    .. math:: \ell = -y \log \sigma(z) - (1 - y) \log(1 - \sigma(z))

    Args:
        logits: (..., K), any real number; computed in float32 at least.
        targets: (..., K) of the same shape, in [0, 1]; NaN where the label is unknown. The range is checked on the CPU
            alone: on an accelerator a look at values would stall every step.
        criterion: Another loss of each element in the place of cross-entropy. It never sees an unknown label.
        weight: Weight of each element, as from `backdoor_weights`; or (..., 1) of each image, or (1, K) of each label.
        reduction: `"mean"` over the known labels, `"sum"`, or `"none"` for the shape of the logits, 0 where unknown.
            The mean divides by the number of known labels, not by the sum of the weights.

    Returns:
        The loss, a scalar or of the shape of `logits`.

    Raises:
        ValueError: If shapes differ, a target lies outside [0, 1], the weight has other axes than the logits,
            `reduction` is unknown, or `criterion` does not return a value for each element.
        TypeError: If logits or targets are not floating-point tensors, or the weight is no tensor.
        RuntimeError: If the weight does not broadcast.

    Example:
        >>> import torch
        >>> classification_loss(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, float("nan")]]))
        tensor(0.6931)
    """
    _check_logits(logits)
    check_tensor("targets", targets, "... K")
    if targets.shape != logits.shape:
        raise ValueError(
            f"logits and targets must have the same shape, but got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    if readable(targets) and bool(((targets < 0) | (targets > 1)).any()):
        low, high = targets[~targets.isnan()].aminmax()
        raise ValueError(
            f"targets must lie in [0, 1], NaN for unknown, but reach from {low:g} to {high:g}; "
            "write uncertain labels such as -1 as NaN"
        )
    dtype, known = torch.promote_types(logits.dtype, torch.float32), ~targets.isnan()
    # Logits of unknown labels are left out before the loss: an infinite one would make a gradient of 0 * inf.
    loss = criterion(logits.to(dtype).where(known, 0.0), targets.to(dtype).where(known, 0.0))
    if loss.shape != logits.shape:
        raise ValueError(
            f"the loss must be that of each element, of shape {tuple(logits.shape)}, but has {tuple(loss.shape)}; use "
            'reduction="none". Labels are independent of each other: a softmax over classes is not supported'
        )
    return _reduce(loss, known, weight, reduction)


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    margin: float = 0.05,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Asymmetric loss (Ridnik et al., *Asymmetric Loss For Multi-Label Classification*, ICCV 2021, Eq. 4 to 7).

    .. math:: \ell = -y (1 - p)^{\gamma_+} \log p - (1 - y) p_m^{\gamma_-} \log(1 - p_m), \qquad p_m = \max(p - m, 0)

    With both exponents and the margin at 0 it is `classification_loss`.

    Args:
        logits: (..., K), any real number; computed in float32 at least.
        targets: (..., K) of the same shape, in [0, 1]; NaN where the label is unknown.
        gamma_pos: Focusing exponent of positive labels, 0 or more.
        gamma_neg: Focusing exponent of negative labels, 0 or more.
        margin: Probability below which a negative label costs nothing, in [0, 1).
        weight: As in `classification_loss`.
        reduction: As in `classification_loss`.

    Returns:
        The loss, a scalar or of the shape of `logits`.

    Raises:
        ValueError: As `classification_loss`, and if an exponent is negative or the margin outside [0, 1).
        TypeError: If an input is not a floating-point tensor.

    Example:
        >>> import torch
        >>> asymmetric_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), gamma_neg=0, margin=0)
        tensor(0.6931)
    """
    if not (gamma_pos >= 0 and gamma_neg >= 0 and 0 <= margin < 1):
        raise ValueError(
            "gamma_pos and gamma_neg must be 0 or more and margin in [0, 1), "
            f"but got {gamma_pos}, {gamma_neg} and {margin}"
        )

    def each(z: Tensor, y: Tensor) -> Tensor:
        log_p, log_not_p = F.logsigmoid(z), F.logsigmoid(-z)
        if margin:
            # 1 - p_m = (1 - p) + m is at least m and its logarithm safe; p - m would round to 1 for a small margin.
            log_negative = (log_not_p.exp() + margin).clamp(max=1).log()
            # At 0 a power below 1 has no finite slope; below the smallest number the clamp passes no gradient on.
            focus = (log_p.exp() - margin).clamp(min=torch.finfo(z.dtype).tiny) ** gamma_neg
        else:
            log_negative, focus = log_not_p, (gamma_neg * log_p).exp()
        return -y * (gamma_pos * log_not_p).exp() * log_p - (1 - y) * focus * log_negative

    return classification_loss(logits, targets, criterion=each, weight=weight, reduction=reduction)


def uniform_kl_loss(logits: Tensor, *, uniform: str = "categorical", reduction: str = "mean") -> Tensor:
    r"""Divergence of the confounder prediction from a uniform one (arXiv 2305.12072, Eq. 5), to be minimised.

    The minus sign in print would push the prediction *away* from uniform.

    The form `"categorical"`, the paper's, takes a softmax over the K labels. The form `"bernoulli"` compares each
    label with 0.5 and averages over labels. It suits labels that do not exclude each other, and a single label:

    .. math:: -\log K - \frac 1 K \sum_k \log \mathrm{softmax}(z)_k \qquad\text{or}\qquad
       \frac 1 K \sum_k \left[-\log 2 - \tfrac 1 2 \log \sigma(z_k) - \tfrac 1 2 \log \sigma(-z_k)\right]

    Args:
        logits: (..., K), any real number; computed in float32 at least.
        uniform: `"categorical"` or `"bernoulli"`.
        reduction: `"mean"`, `"sum"`, or `"none"` for one value an image, of shape (...).

    Returns:
        The divergence, 0 or more up to rounding.

    Raises:
        ValueError: If an option is unknown, the logits have no label axis, or there is a single label and `uniform` is
            `"categorical"`: a softmax over one label is always uniform.
        TypeError: If the logits are not a floating-point tensor.

    Example:
        >>> import torch
        >>> uniform_kl_loss(torch.full((2, 14), 3.0)).abs() < 1e-6
        tensor(True)
    """
    check_choice("uniform", uniform, ("categorical", "bernoulli"))
    check_choice("reduction", reduction, ("none", "mean", "sum"))
    _check_logits(logits)
    if uniform == "categorical" and logits.shape[-1] == 1:
        raise ValueError(
            "a softmax over one label is always uniform, so its divergence is 0 whatever the logits; "
            'with one label use uniform="bernoulli"'
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if uniform == "categorical":
        divergence = -logits.log_softmax(dim=-1).mean(dim=-1) - math.log(logits.shape[-1])
    else:
        divergence = -(F.logsigmoid(logits) + F.logsigmoid(-logits)).mean(dim=-1) / 2 - math.log(2)
    if reduction == "none":
        return divergence
    return divergence.sum() if reduction == "sum" else divergence.sum() / max(divergence.numel(), 1)


def backdoor_loss(
    intervened: Tensor,
    targets: Tensor,
    *,
    prior: Tensor | None = None,
    criterion: ElementwiseLoss = cross_entropy,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Classification loss averaged over borrowed confounders (arXiv 2305.12072, Eq. 7).

    .. math:: L_{bd} = \frac 1 B \sum_i \sum_s P(c_s) \, \ell(\Phi(h_x^{(i)} + h_c^{(s)}), y^{(i)})

    Args:
        intervened: (B, S, K) logits of every image with every confounder, as from `BackdoorIntervention`.
        targets: (B, K) labels of the *images*, in [0, 1]; NaN where unknown.
        prior: (S,) probability P(c) of each confounder, adding up to 1, or (B, S), those of each image. Where the
            confounder of an image is known, 1 for it and 0 for the others fits P(Y | X, c). Where there is nothing to
            borrow, all are 0. Values are checked on the CPU alone, as those of targets. Default: all the same.
        criterion: Loss of each element, as in `classification_loss`.
        weight: (B, K) weight of each label, as from `backdoor_weights`.
        reduction: `"mean"` over the known labels, `"sum"`, or `"none"` for (B, K).

    Returns:
        The loss. With no confounder at all, S = 0, it is 0: there is nothing to intervene with.

    Raises:
        ValueError: If shapes do not fit, a probability is negative, or they add up neither to 1 nor to 0; and as
            `classification_loss` does.
        TypeError: If an input is not a floating-point tensor.

    Example:
        >>> import torch
        >>> backdoor_loss(torch.zeros(2, 100, 3), torch.ones(2, 3))
        tensor(0.6931)
    """
    check_tensor("intervened", intervened, "B S K")
    check_tensor("targets", targets, "B K", B=intervened.shape[0], K=intervened.shape[2])
    pairs, of_pairs = intervened.flatten(0, 1), targets.repeat_interleave(intervened.shape[1], dim=0)  # (B S, K)
    each = classification_loss(pairs, of_pairs, criterion=criterion, reduction="none").view_as(intervened)
    if prior is None:
        loss = each.sum(dim=1) / max(intervened.shape[1], 1)
    else:
        check_prior(prior, intervened)
        loss = (each * prior.to(each)[..., None]).sum(dim=1)  # not a matrix product, which autocast takes in half
    return _reduce(loss, ~targets.isnan(), weight, reduction)


def check_prior(prior: Tensor, intervened: Tensor) -> None:
    """Raise unless `prior` is a tensor of probabilities (S,) or (B, S) for intervened logits (B, S, K)."""
    if not isinstance(prior, Tensor):
        raise TypeError(f"prior must be a tensor, but got {type(prior).__name__}; give torch.as_tensor(prior)")
    batch, num_confounders = intervened.shape[:2]
    if prior.shape not in ((num_confounders,), (batch, num_confounders)):
        raise ValueError(
            f"prior must hold one probability for each of the {num_confounders} confounders of `intervened`, (S,), or "
            f"a row of them for each of the {batch} images, (B, S), but got {tuple(prior.shape)}"
        )
    if readable(prior):
        total = prior.double().sum(dim=-1)
        if not (prior >= 0).all() or not ((total == 0) | ((total - 1).abs() < 1e-2)).all():  # as bfloat16 rounds
            raise ValueError(
                "prior must hold probabilities, 0 or more, that add up to 1, or all 0, but its lowest is "
                f"{prior.min().item():g} and its sum {total.flatten().tolist()[:5]}; divide by the sum"
            )


def _check_logits(logits: Tensor) -> None:
    check_tensor("logits", logits, "... K")
    if logits.shape[-1] == 0:
        raise ValueError(f"logits must have at least one label, but got shape {tuple(logits.shape)}")


def _reduce(loss: Tensor, known: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Weight the loss of each element, leave the unknown ones out, and take the mean of the known ones or the sum."""
    check_choice("reduction", reduction, ("none", "mean", "sum"))
    if weight is not None:
        if not isinstance(weight, Tensor):
            raise TypeError(f"weight must be a tensor, but got {type(weight).__name__}; give torch.as_tensor(weight)")
        if weight.ndim != loss.ndim:  # (B,) would weight the labels where B = K
            raise ValueError(
                f"weight must have the axes of the labels, {tuple(loss.shape)}, but got {tuple(weight.shape)}; give "
                "weight[:, None] for one of each image, weight[None] for one of each label"
            )
        loss = loss * weight.to(loss).expand_as(loss)
    loss = loss.where(known, 0.0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / known.sum().clamp(min=1)
