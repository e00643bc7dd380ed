"""The adjusted prediction against the literal sum over confounders (arXiv 2305.12072, Eq. 1)."""

import copy

import pytest
import torch

from causalcxr import CausalCXR
from causalcxr.layers import ConfounderBank
from reference.backdoor import predict_do
from reference.comparison import EXACT, normal


@pytest.fixture(scope="module", params=["add", "cat"])
def model(request):
    torch.manual_seed(0)
    return CausalCXR("test_resnet", num_classes=3, dim=8, num_heads=2, combine=request.param).double().eval()


def _bank():
    bank = ConfounderBank(20, 3, 8, dtype=torch.float64)
    bank.update(3 * normal(5, 3, 8, seed=2))
    return bank


def _images():
    return normal(2, 3, 32, 32)


def test_prediction_equals_the_reference(model):
    bank, phi = _bank(), model.head.intervention
    expected = predict_do(
        model.forward_causal(_images()).causal,
        bank.features,
        [1 / 5] * 5,
        phi.classifier.weight,
        phi.classifier.bias,
        combine=phi.combine,
    )
    given = model.predict_do(_images(), bank)
    torch.testing.assert_close(given, expected.detach(), **EXACT)
    assert not given.requires_grad


def test_average_stays_in_float32_under_autocast():
    """Averaging equal probabilities must return them. In bfloat16 they would be rounded to 3 digits."""
    torch.manual_seed(0)
    model = CausalCXR("test_resnet", num_classes=3, dim=8, num_heads=2).eval()
    bank = ConfounderBank(7, 3, 8)
    bank.update(normal(1, 3, 8, seed=2).float().expand(7, 3, 8))
    images = _images().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = model.predict_do(images, bank)
        expected = model.forward_causal(images, bank.features).intervened[:, 0]
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, expected.detach().float().sigmoid(), rtol=1e-6, atol=0)


def test_model_in_training_predicts_as_in_evaluation_and_stays_as_it_is(model):
    training, bank = copy.deepcopy(model).train(), _bank()
    assert torch.equal(training.predict_do(_images(), bank), model.predict_do(_images(), bank))
    assert all(module.training for module in training.modules())
    torch.testing.assert_close(training.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_bank_must_be_a_filled_bank(model):
    with pytest.raises(TypeError, match="must be a ConfounderBank, but got Tensor"):
        model.predict_do(_images(), torch.zeros(5, 3, 8))
    with pytest.raises(ValueError, match="the bank is empty"):
        model.predict_do(_images(), ConfounderBank(5, 3, 8, dtype=torch.float64))
