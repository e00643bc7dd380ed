"""The classification objective, for a causal model and a plain one."""

import timm
import torch

import causalcxr
from causalcxr import ClassificationObjective
from causalcxr.losses import AsymmetricLoss, asymmetric_loss, classification_loss


def test_the_loss_is_that_of_the_logits():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    images, targets, weight = torch.randn(4, 3, 64, 64), torch.tensor([[0.0, 1.0, float("nan")]] * 4), torch.rand(4, 3)
    loss = ClassificationObjective(model)(images, targets, weight=weight)["loss"]
    torch.testing.assert_close(loss, classification_loss(model(images), targets, weight=weight))
    loss = ClassificationObjective(model, criterion=AsymmetricLoss())(images, targets, weight=weight)["loss"]
    torch.testing.assert_close(loss, asymmetric_loss(model(images), targets, weight=weight))


def test_every_parameter_that_trains_has_a_gradient():
    """DistributedDataParallel requires this. Only the causal branch is trained."""
    model = causalcxr.create_model("causal_test_resnet", num_classes=3)
    ClassificationObjective(model)(torch.randn(4, 3, 64, 64), torch.zeros(4, 3))["loss"].backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.head.confounder_classifier.parameters())
    assert all(parameter.requires_grad for parameter in model.head.causal_classifier.parameters())
    causalcxr.CausalObjective(model)  # unfreezes them, but nothing that the caller froze
    assert all(parameter.requires_grad for parameter in model.head.parameters())
    for objective in (ClassificationObjective, causalcxr.CausalObjective):
        objective(model.requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in model.parameters())
