"""What all layers promise: true gradients, half precision, and an error that says what would work."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from causalcxr.layers import (
    ACmix,
    BackdoorIntervention,
    CausalDecoder,
    ConfounderBank,
    DisentangledCrossAttention,
    FeatureLearning,
    GroupLinear,
)
from reference.cases import LAYERS, tensors
from reference.comparison import TOLERANCE, randomised, relative_error

ROUNDINGS = {"CausalHead": 4}  # several layers deep


@pytest.mark.parametrize("case", LAYERS)
def test_gradients_are_those_of_the_function(case: str) -> None:
    """By finite differences, with respect to inputs and all parameters."""
    layer, inputs = LAYERS[case]()
    names, parameters = zip(*randomised(layer).named_parameters(), strict=True)

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, given[len(inputs) :], strict=True))
        return tuple(tensors(functional_call(layer, weights, given[: len(inputs)])))

    arguments = [tensor.detach().requires_grad_() for tensor in (*inputs, *parameters)]
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", LAYERS)
def test_low_precision_is_float64_up_to_rounding(case: str, dtype: torch.dtype) -> None:
    layer, inputs = LAYERS[case]()
    low = randomised(layer, scale=0.3).to(dtype)
    rounded = [tensor.to(dtype) for tensor in inputs]
    expected = tensors(copy.deepcopy(low).double()(*(tensor.double() for tensor in rounded)))
    given = tensors(low(*rounded))
    assert [tensor.dtype for tensor in given] == [dtype] * len(expected)
    errors = [relative_error(*pair) for pair in zip(given, expected, strict=True)]
    assert max(errors) < ROUNDINGS.get(case, 1) * TOLERANCE[dtype]
    sum(tensor.float().square().mean() for tensor in given).backward()
    assert all(bool(p.grad.isfinite().all()) for p in low.parameters() if p.grad is not None)


def _bank(num_strata: int = 0, prior: tuple[float, ...] | None = None) -> ConfounderBank:
    return ConfounderBank(5, 2, 3, num_strata=num_strata, strata_prior=prior)


X = torch.zeros
INTEGERS = torch.zeros(2, 3, 4, dtype=torch.long)
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "heads of ACmix": (lambda: ACmix(3, 10, num_heads=4), "10 and 4"),
    "even window": (lambda: ACmix(3, 4, num_heads=2, attn_kernel_size=4), "must be odd"),
    "even kernel": (lambda: ACmix(3, 4, num_heads=2, kernel_size=2), "must be odd"),
    "channels of ACmix": (lambda: ACmix(3, 4)(X(2, 4, 5, 5)), r"x must have shape .* C=3, but got \(2, 4, 5, 5\)"),
    "no batch": (lambda: ACmix(3, 4)(X(3, 5, 5)), "x must have shape"),
    "channels of the encoder": (lambda: FeatureLearning(5, 4, num_heads=2)(X(1, 4, 3, 3)), "x must have shape"),
    "heads of the encoder": (lambda: FeatureLearning(5, 6, num_heads=4), "6 and 4"),
    "heads of the attention": (lambda: DisentangledCrossAttention(6, num_heads=4), "6 and 4"),
    "complement": (lambda: DisentangledCrossAttention(6, complement="printed", num_heads=3), "'paper', but got"),
    "query": (lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 5), X(2, 5, 6)), "query must have shape"),
    "key": (lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 6), X(1, 5, 6)), "key must have shape"),
    "value": (
        lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 6), X(2, 5, 6), X(2, 4, 6)),
        "value must have shape",
    ),
    "width of the decoder": (lambda: CausalDecoder(3, 6, num_heads=2), "multiple of 4"),
    "depth": (lambda: CausalDecoder(3, 8, depth=0), "at least 1"),
    "labels of the decoder": (lambda: CausalDecoder(-1, 8), "0 or more"),
    "decoder without labels": (lambda: CausalDecoder(0, 8)(X(1, 8, 2, 3)), "reset_classes"),
    "features of the decoder": (lambda: CausalDecoder(3, 8)(X(1, 4, 2, 3)), "features must have shape"),
    "groups": (lambda: GroupLinear(0, 4), "must be positive"),
    "input of a group": (lambda: GroupLinear(3, 5)(X(2, 3, 4)), "x must have shape"),
    "combine": (lambda: BackdoorIntervention(3, 4, combine="mul"), "'cat', but got 'mul'"),
    "intervention without labels": (lambda: BackdoorIntervention(0, 4)(X(2, 3, 4), X(2, 3, 4)), "reset_classes"),
    "causal features": (lambda: BackdoorIntervention(3, 4)(X(2, 3, 5), X(2, 3, 4)), "causal must have shape"),
    "confounders": (lambda: BackdoorIntervention(3, 4)(X(2, 3, 4), X(5, 2, 4)), "confounders must have shape"),
    "size of the bank": (lambda: ConfounderBank(0, 2, 3), "must be positive"),
    "prior that is none": (lambda: _bank(2, (0.5, 0.6)), "add up to 1"),
    "prior below 0": (lambda: _bank(2, (1.5, -0.5)), "add up to 1"),
    "prior that is not known": (lambda: _bank(2, (float("nan"), 1.0)), "add up to 1"),
    "prior of other strata": (lambda: _bank(2, (0.2, 0.3, 0.5)), "add up to 1"),
    "prior without strata": (lambda: _bank(0, (0.5, 0.5)), "leave strata_prior out"),
    "no strata": (lambda: _bank(2).update(X(1, 2, 3)), "strata were not given"),
    "strata not expected": (lambda: _bank().update(X(1, 2, 3), torch.tensor([0])), "strata were given"),
    "strata for others": (lambda: _bank(2).update(X(2, 2, 3), torch.tensor([0])), "strata must have shape"),
    "stratum beyond": (lambda: _bank(2).update(X(2, 2, 3), torch.tensor([0, 2])), "from 0 to 1"),
    "stratum below 0": (lambda: _bank(2).update(X(2, 2, 3), torch.tensor([0, -1])), "from 0 to 1"),
    "features of the bank": (lambda: _bank().update(X(4, 3, 3)), "features must have shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: ACmix(3, 4)(torch.zeros(1, 3, 5, 5, dtype=torch.uint8)),
        lambda: GroupLinear(3, 4)([[1.0]]),
        lambda: BackdoorIntervention(3, 4)(INTEGERS, X(2, 3, 4)),
        lambda: DisentangledCrossAttention(4, num_heads=2)(INTEGERS, X(2, 5, 4)),
        lambda: _bank().update(torch.zeros(4, 2, 3, dtype=torch.long)),
        lambda: _bank(2).update(X(1, 2, 3), torch.zeros(1)),
        lambda: _bank(2).update(X(1, 2, 3), [0]),
    ],
)
def test_bad_types_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match=r"must be a (floating-point tensor|tensor of integers)"):
        call()
