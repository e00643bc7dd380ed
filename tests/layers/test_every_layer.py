"""What all layers promise: true gradients, half precision, and an error that says what would work."""

import copy

import pytest
import torch
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
def test_gradients_are_those_of_the_function(case):
    """By finite differences, with respect to inputs and all parameters."""
    layer, inputs = LAYERS[case]()
    names, parameters = zip(*randomised(layer).named_parameters(), strict=True)

    def function(*given):
        weights = dict(zip(names, given[len(inputs) :], strict=True))
        return tuple(tensors(functional_call(layer, weights, given[: len(inputs)])))

    arguments = [tensor.detach().requires_grad_() for tensor in (*inputs, *parameters)]
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", LAYERS)
def test_low_precision_is_float64_up_to_rounding(case, dtype):
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


def _bank(num_strata=0, prior=None):
    return ConfounderBank(5, 2, 3, num_strata=num_strata, strata_prior=prior)


X, NAN = torch.zeros, float("nan")
BAD = [
    (lambda: ACmix(3, 10, num_heads=4), ValueError, "10 and 4"),
    (lambda: ACmix(3, 4, num_heads=2, attn_kernel_size=4), ValueError, "odd"),
    (lambda: ACmix(3, 4, num_heads=2, kernel_size=2), ValueError, "odd"),
    (lambda: ACmix(3, 4)(X(2, 4, 5, 5)), ValueError, r"C=3, but got \(2, 4, 5, 5\)"),
    (lambda: ACmix(3, 4)(X(3, 5, 5)), ValueError, "x must"),
    (lambda: ACmix(3, 4)(X(1, 3, 5, 5, dtype=torch.uint8)), TypeError, "x must"),
    (lambda: FeatureLearning(5, 4, num_heads=2)(X(1, 4, 3, 3)), ValueError, "x must"),
    (lambda: DisentangledCrossAttention(6, num_heads=4), ValueError, "6 and 4"),
    (lambda: DisentangledCrossAttention(6, complement="printed", num_heads=3), ValueError, "'paper'"),
    (lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 5), X(2, 5, 6)), ValueError, "query must"),
    (lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 6), X(1, 5, 6)), ValueError, "key must"),
    (lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 6), X(2, 5, 6), X(2, 4, 6)), ValueError, "value must"),
    (lambda: CausalDecoder(3, 6, num_heads=2), ValueError, "multiple of 4"),
    (lambda: CausalDecoder(3, 8, depth=0), ValueError, "depth"),
    (lambda: CausalDecoder(-1, 8), ValueError, "0 or more"),
    (lambda: CausalDecoder(0, 8)(X(1, 8, 2, 3)), ValueError, "reset_classes"),
    (lambda: CausalDecoder(3, 8)(X(1, 4, 2, 3)), ValueError, "features must"),
    (lambda: GroupLinear(0, 4), ValueError, "positive"),
    (lambda: GroupLinear(3, 5)(X(2, 3, 4)), ValueError, "x must"),
    (lambda: GroupLinear(3, 4)([[1.0]]), TypeError, "x must"),
    (lambda: BackdoorIntervention(3, 4, combine="mul"), ValueError, "'cat'"),
    (lambda: BackdoorIntervention(0, 4)(X(2, 3, 4), X(2, 3, 4)), ValueError, "reset_classes"),
    (lambda: BackdoorIntervention(3, 4)(X(2, 3, 5), X(2, 3, 4)), ValueError, "causal must"),
    (lambda: BackdoorIntervention(3, 4)(X(2, 3, 4), X(5, 2, 4)), ValueError, "confounders must"),
    (lambda: ConfounderBank(0, 2, 3), ValueError, "positive"),
    (lambda: _bank(2, (0.5, 0.6)), ValueError, "add up to 1"),
    (lambda: _bank(2, (1.5, -0.5)), ValueError, "add up to 1"),
    (lambda: _bank(2, (NAN, 1.0)), ValueError, "add up to 1"),
    (lambda: _bank(2, (0.2, 0.3, 0.5)), ValueError, "add up to 1"),
    (lambda: _bank(0, (0.5, 0.5)), ValueError, "leave strata_prior out"),
    (lambda: _bank(2).update(X(1, 2, 3)), ValueError, "not given"),
    (lambda: _bank().update(X(1, 2, 3), torch.tensor([0])), ValueError, "were given"),
    (lambda: _bank(2).update(X(2, 2, 3), torch.tensor([0])), ValueError, "strata must have shape"),
    (lambda: _bank(2).update(X(2, 2, 3), torch.tensor([0, 2])), ValueError, "from 0 to 1"),
    (lambda: _bank(2).update(X(2, 2, 3), torch.tensor([0, -1])), ValueError, "from 0 to 1"),
    (lambda: _bank(2).update(X(1, 2, 3), torch.zeros(1)), TypeError, "integers"),
    (lambda: _bank(2).update(X(1, 2, 3), [0]), TypeError, "integers"),
    (lambda: _bank().update(X(4, 3, 3)), ValueError, "features must"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
