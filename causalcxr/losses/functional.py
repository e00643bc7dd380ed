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
"""Maps logits and targets (..., K) to the loss of each element, e.g. `nn.BCEWithLogitsLoss(reduction="none")`."""

cross_entropy: ElementwiseLoss = functools.partial(F.binary_cross_entropy_with_logits, reduction="none")


def without_reduction(criterion: ElementwiseLoss) -> ElementwiseLoss:
    """Return an elementwise loss: a copy with `reduction="none"` of a module that reduces, or the function itself."""
    if not callable(criterion) or isinstance(criterion, type):
        raise TypeError(
            "a classification loss must be an instance, such as nn.BCEWithLogitsLoss(pos_weight=...) or "
            f"AsymmetricLoss(), or a function, but got {criterion!r}"
        )
    if isinstance(criterion, nn.Module) and hasattr(criterion, "reduction"):
        criterion = copy.deepcopy(criterion)  # a shallow copy would share its buffers
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
    r"""Binary cross-entropy over the known labels (arXiv 2305.12072, Eq. 4 for multiple labels).

    .. math:: \ell = -y \log \sigma(z) - (1 - y) \log(1 - \sigma(z))

    Args:
        logits: (..., K), any real number. The loss is computed in at least float32.
        targets: (..., K) labels in [0, 1], NaN where unknown. The range is checked only on the CPU: reading values from
            an accelerator would stall every step.
        criterion: Elementwise loss to use instead of cross-entropy. Unknown labels are masked.
        weight: Weight of each element, e.g. from `backdoor_weights`, of each image (..., 1) or of each label (1, K).
        reduction: `"mean"` over the known labels, `"sum"`, or `"none"` for the shape of the logits, 0 where unknown.
            The mean divides by the number of known labels, not by the sum of the weights.

    Returns:
        The loss, a scalar or of the shape of `logits`.

    Raises:
        ValueError: If shapes differ, a target is outside [0, 1], the weight does not have as many axes as the logits,
            `reduction` is unknown, or `criterion` does not return one value per element.
        TypeError: If logits or targets are not floating-point tensors, or the weight is not a tensor.
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
            f"targets must be in [0, 1], or NaN where unknown, but range from {low:g} to {high:g}; "
            "replace uncertain labels such as -1 with NaN"
        )
    dtype, known = torch.promote_types(logits.dtype, torch.float32), ~targets.isnan()
    # Mask the logits of unknown labels before the loss: an infinite one would give a gradient of 0 * inf.
    loss = criterion(logits.to(dtype).where(known, 0.0), targets.to(dtype).where(known, 0.0))
    if loss.shape != logits.shape:
        raise ValueError(
            f"criterion must return the loss of each element, of shape {tuple(logits.shape)}, but the shape is "
            f'{tuple(loss.shape)}; use reduction="none" and a loss that does not average over labels, such as '
            "nn.BCEWithLogitsLoss"
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

    With both exponents and the margin at 0, it equals `classification_loss`.

    Args:
        logits: (..., K), any real number. The loss is computed in at least float32.
        targets: (..., K) labels in [0, 1], NaN where unknown.
        gamma_pos: Focusing exponent of positive labels, 0 or more.
        gamma_neg: Focusing exponent of negative labels, 0 or more.
        margin: Probability below which a negative label has zero loss, in [0, 1).
        weight: As in `classification_loss`.
        reduction: As in `classification_loss`.

    Returns:
        The loss, a scalar or of the shape of `logits`.

    Raises:
        ValueError: As in `classification_loss`, or if an exponent is negative or the margin is outside [0, 1).
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
            # 1 - p_m = (1 - p) + m is at least m, so its logarithm is safe. p - m would round to 1 for a small margin.
            log_negative = (log_not_p.exp() + margin).clamp(max=1).log()
            # A power below 1 has an infinite slope at 0. The clamp stops the gradient below the smallest number.
            focus = (log_p.exp() - margin).clamp(min=torch.finfo(z.dtype).tiny) ** gamma_neg
        else:
            log_negative, focus = log_not_p, (gamma_neg * log_p).exp()
        return -y * (gamma_pos * log_not_p).exp() * log_p - (1 - y) * focus * log_negative

    return classification_loss(logits, targets, criterion=each, weight=weight, reduction=reduction)


def uniform_kl_loss(logits: Tensor, *, uniform: str = "categorical", reduction: str = "mean") -> Tensor:
    r"""KL divergence between the uniform distribution and the confounder prediction (arXiv 2305.12072, Eq. 5).

    This loss is minimised. The minus sign in the paper would push the prediction *away* from uniform.

    The `"categorical"` form, as in the paper, applies a softmax over the K labels. The `"bernoulli"` form compares each
    label with 0.5 and averages over labels. Use it for labels that are not mutually exclusive and for a single label:

    .. math:: -\log K - \frac 1 K \sum_k \log \mathrm{softmax}(z)_k \qquad\text{or}\qquad
       \frac 1 K \sum_k \left[-\log 2 - \tfrac 1 2 \log \sigma(z_k) - \tfrac 1 2 \log \sigma(-z_k)\right]

    Args:
        logits: (..., K), any real number. The loss is computed in at least float32.
        uniform: `"categorical"` or `"bernoulli"`.
        reduction: `"mean"`, `"sum"`, or `"none"` for one value per image, of shape (...).

    Returns:
        The divergence, non-negative up to rounding.

    Raises:
        ValueError: If an option is unknown, the logits have no labels, or there is a single label and `uniform` is
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
            "a softmax over one label is always uniform, so its divergence is 0 for any logits; "
            'with one label, use uniform="bernoulli"'
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
        intervened: (B, S, K) logits of every image with every confounder, e.g. from `BackdoorIntervention`.
        targets: (B, K) labels of the *images* in [0, 1], NaN where unknown.
        prior: Probability P(c) of each confounder, (S,), or one row per image, (B, S). Rows sum to 1, or to 0 if there
            is nothing to borrow. To fit P(Y | X, c) to a known confounder of each image, pass one-hot rows. Values are
            checked only on the CPU, like targets. Default: equal probabilities.
        criterion: Elementwise loss, as in `classification_loss`.
        weight: (B, K) weight of each label, e.g. from `backdoor_weights`.
        reduction: `"mean"` over the known labels, `"sum"`, or `"none"` for (B, K).

    Returns:
        The loss. Without confounders (S = 0), it is 0.

    Raises:
        ValueError: If shapes do not match, a probability is negative, or the probabilities sum to neither 1 nor 0, and
            as in `classification_loss`.
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
        loss = (each * prior.to(each)[..., None]).sum(dim=1)  # autocast would run a matrix product in half
    return _reduce(loss, ~targets.isnan(), weight, reduction)


def check_prior(prior: Tensor, intervened: Tensor) -> None:
    """Raise unless `prior` is a tensor of probabilities (S,) or (B, S) for intervened logits (B, S, K)."""
    if not isinstance(prior, Tensor):
        raise TypeError(f"prior must be a tensor, but got {type(prior).__name__}; pass torch.as_tensor(prior)")
    batch, num_confounders = intervened.shape[:2]
    if prior.shape not in ((num_confounders,), (batch, num_confounders)):
        raise ValueError(
            f"prior must hold one probability for each of the {num_confounders} confounders of `intervened`, (S,), or "
            f"one row for each of the {batch} images, (B, S), but got {tuple(prior.shape)}"
        )
    if readable(prior):
        total = prior.double().sum(dim=-1)
        if not (prior >= 0).all() or not ((total == 0) | ((total - 1).abs() < 1e-2)).all():  # for bfloat16
            raise ValueError(
                "prior must hold probabilities, 0 or more, that sum to 1 or are all 0, but its lowest is "
                f"{prior.min().item():g} and its sum {total.flatten().tolist()[:5]}; divide it by its sum"
            )


def _check_logits(logits: Tensor) -> None:
    check_tensor("logits", logits, "... K")
    if logits.shape[-1] == 0:
        raise ValueError(f"logits must have at least one label, but got shape {tuple(logits.shape)}")


def _reduce(loss: Tensor, known: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Weight the loss of each element, mask unknown labels, and reduce. The mean is over the known labels."""
    check_choice("reduction", reduction, ("none", "mean", "sum"))
    if weight is not None:
        if not isinstance(weight, Tensor):
            raise TypeError(f"weight must be a tensor, but got {type(weight).__name__}; pass torch.as_tensor(weight)")
        if weight.ndim != loss.ndim:  # (B,) would weight the labels if B = K
            raise ValueError(
                f"weight must have the axes of the labels, {tuple(loss.shape)}, but got {tuple(weight.shape)}; pass "
                "weight[:, None] for one weight per image, or weight[None] for one per label"
            )
        loss = loss * weight.to(loss).expand_as(loss)
    loss = loss.where(known, 0.0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / known.sum().clamp(min=1)
