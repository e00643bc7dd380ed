"""The properties that define the method, and the adjusted prediction against the literal sum (Eq. 1)."""

import copy

import pytest
import torch

from causalcxr import CausalCXR, CausalHead
from causalcxr.layers import ConfounderBank
from reference.backdoor import predict_do
from reference.comparison import EXACT, normal, randomised


def _head(num_classes=3, **kwargs):
    return randomised(CausalHead(5, num_classes, dim=8, num_heads=2, **kwargs))


def test_each_loss_trains_its_own_branch():
    """L_sl must not reach the confounding network, nor L_conf the causal one; the intervention reaches both."""
    head = _head()
    output = head(normal(3, 5, 2, 3))

    def reached(logits):
        gradients = torch.autograd.grad(logits.sum(), list(head.parameters()), retain_graph=True, allow_unused=True)
        names = [name.split(".")[0] for name, _ in head.named_parameters()]
        return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}

    shared = {"feature_learning", "decoder"}
    assert reached(output.logits) == shared | {"causal_mlp", "causal_classifier"}
    assert reached(output.confounder_logits) == shared | {"confounder_mlp", "confounder_classifier"}
    assert reached(output.intervened) == shared | {"causal_mlp", "confounder_mlp", "intervention"}


def test_dropout_acts_in_training_alone():
    head, features = _head(drop_rate=0.5), normal(2, 5, 2, 3)
    torch.testing.assert_close(head.eval()(features)[:5], _head()(features)[:5], **EXACT)
    torch.manual_seed(0)
    assert not torch.allclose(head.train()(features).logits, head(features).logits, atol=1e-3)
    assert (head(features).confounder != 0).all()  # features for a bank have no dropout


HEAD = CausalHead(5, 3, dim=8, num_heads=2)
X = torch.zeros(2, 5, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CausalHead(5, 0, dim=8, num_heads=2)(X), "call reset_classifier"),
        (lambda: HEAD(X.flatten(2).mT), r"got tokens \(2, 6, 5\); .*num_prefix_tokens.*forward_intermediates"),
        (lambda: HEAD(X.permute(0, 2, 3, 1)), r"channels last, .*; use features.permute\(0, 3, 1, 2\)"),
        (lambda: HEAD(X[:, :4]), "features must have shape"),
        (lambda: HEAD(X, torch.zeros(4, 2, 8)), "confounders must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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


def test_bank_must_be_filled(model):
    with pytest.raises(ValueError, match="the bank is empty"):
        model.predict_do(_images(), ConfounderBank(5, 3, 8, dtype=torch.float64))
