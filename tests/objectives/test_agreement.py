"""Agreement of two views: the borrowed regions, the losses and training."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import causalcxr
from causalcxr import AgreementObjective
from causalcxr.losses import AsymmetricLoss, asymmetric_loss, classification_loss
from reference.comparison import normal
from two_processes import in_two_processes


class Linear(nn.Module):
    """Logits that are linear in the pixels. It records its inputs."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.given = nn.Parameter(weight), []  # (K, H, W)

    def forward(self, images):
        self.given.append(images.detach().clone())
        return torch.einsum("bchw,khw->bk", images, self.weight)


def two_views(batch, weight, **options):
    """Return both views of random images and the mask (B, H, W) of where they differ."""
    torch.manual_seed(0)
    model, images = Linear(weight), torch.rand(batch, 1, *weight.shape[1:])
    AgreementObjective(model, **options)(images, torch.zeros(batch, len(weight)))
    first, second = model.given
    assert torch.equal(first, images)
    return first, second, (first != second)[:, 0]


def test_the_box_that_changes_the_prediction_most_is_borrowed_from_another_image():
    """For one label of each image, the sum of changes in the box is the largest of all boxes, computed box by box."""
    weight, followed = normal(2, 15, 20).float(), set()
    images, second, borrowed = two_views(8, weight, num_boxes=1, size=(0.2, 0.2), num_places=5000)
    for own, image, box in zip(images, second, borrowed, strict=True):
        (lender,) = (other for other in images if torch.equal(other[:, box], image[:, box]))
        changes = weight * (lender - own)
        corners = itertools.product(range(-2, 15), range(-2, 20))
        boxes = [changes[:, max(0, top) : top + 3, max(0, left) : left + 4] for top, left in corners]
        largest = torch.stack([each.sum(dim=(1, 2)).abs() for each in boxes]).amax(dim=0)
        (label,) = torch.isclose(changes[:, box].sum(dim=1).abs(), largest, rtol=1e-4).nonzero()
        followed.add(int(label))
    assert followed == {0, 1}


def test_boxes_of_one_image_are_at_different_places():
    weight = torch.zeros(1, 32, 32)
    weight[:, 5:8, 9:12] = 1
    *_, borrowed = two_views(8, weight, num_boxes=3, size=(0.2, 0.2), num_places=2000)
    assert borrowed[:, 5:8, 9:12].float().mean() > 0.95  # later boxes cover what the first one missed


@pytest.mark.parametrize("options", [{}, {"criterion": AsymmetricLoss()}], ids=["cross-entropy", "asymmetric"])
def test_losses_and_gradient_are_those_of_the_two_views(options):
    """Choosing the boxes leaves no gradient in the weights or in the caller's images."""
    torch.manual_seed(0)
    model = Linear(torch.randn(3, 16, 16))
    images, weight, targets = torch.rand(5, 1, 16, 16), torch.rand(5, 3), torch.rand(5, 3).round()
    targets[0, 0] = float("nan")
    losses = AgreementObjective(model, strength=0.7, **options)(images, targets, weight=weight)
    z, other = (model(each) for each in model.given[:2])
    each = asymmetric_loss if options else classification_loss
    sl = (each(z, targets, weight=weight) + each(other, targets, weight=weight)) / 2
    agreement = (z - other).square().mean()
    torch.testing.assert_close(losses, {"loss": sl + 0.7 * agreement, "sl": sl, "agreement": agreement})
    found, expected = (torch.autograd.grad(loss, model.weight) for loss in (losses["loss"], sl + 0.7 * agreement))
    torch.testing.assert_close(found, expected)
    assert images.grad is None
    assert not images.requires_grad


def test_images_are_followed_through_batch_statistics(monkeypatch):
    """An image changes the normalised features of all others. This must not hide its effect on its own logit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16), nn.BatchNorm1d(16), nn.ReLU())
    model.append(nn.Linear(16, 1))
    images = torch.randn(32, 1, 8, 8)
    model(images)
    given = []
    objective = AgreementObjective(model)
    monkeypatch.setattr(objective, "_without_evidence", lambda x, gradient: given.append(gradient) or x.detach())
    objective(images, torch.zeros(32, 1))
    x = images.clone().requires_grad_()
    logits = model(x)[:, 0]
    alone = torch.stack([torch.autograd.grad(z, x, retain_graph=True)[0][i] for i, z in enumerate(logits)])
    alike = torch.cosine_similarity(given[0].flatten(1), alone.flatten(1)).abs()
    assert alike.mean() > 0.8


def test_layers_before_the_objective_are_trained():
    torch.manual_seed(0)
    stem = nn.Conv2d(1, 1, 3, padding=1)
    objective = AgreementObjective(Linear(torch.randn(1, 16, 16)))
    objective(stem(torch.rand(4, 1, 16, 16)), torch.ones(4, 1))["loss"].backward()
    assert stem.weight.grad is not None
    assert stem.weight.grad.any()


def test_evaluation_no_gradients_and_a_batch_of_one_have_the_first_view_alone():
    model, images, targets = Linear(torch.rand(1, 16, 16)), torch.rand(3, 1, 16, 16), torch.zeros(3, 1)
    objective = AgreementObjective(model, criterion=AsymmetricLoss())
    one = objective(images[:1], targets[:1], weight=torch.full((1, 1), 0.5))
    with torch.no_grad():
        without_gradients = objective(images, targets)
    evaluated = objective.eval()(images, targets)
    assert len(model.given) == 3
    assert one["agreement"] == without_gradients["agreement"] == evaluated["agreement"] == 0
    torch.testing.assert_close(one["loss"], asymmetric_loss(model(images[:1]), targets[:1]) / 2)
    torch.testing.assert_close(evaluated["loss"], asymmetric_loss(model(images), targets))


def _train(rank):
    """Take two training steps with the images of one process and return its weights."""
    torch.manual_seed(0)
    objective = DistributedDataParallel(AgreementObjective(causalcxr.create_model("causal_test_resnet", dim=8)))
    optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, objective.parameters()), lr=0.01)
    torch.manual_seed(rank)
    for _ in range(2):
        optimizer.zero_grad()
        objective(torch.randn(4, 3, 32, 32), torch.zeros(4, 14))["loss"].backward()
        optimizer.step()
    return dict(objective.module.model.named_parameters())


@pytest.mark.filterwarnings("ignore:Grad strides do not match")  # from torch, for 1 x 1 kernels on several threads
def test_two_processes_train_one_causal_model(tmp_path):
    first, second = in_two_processes(_train, tmp_path)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


X, Y = torch.rand(3, 1, 4, 4), torch.zeros(3, 1)
ONE_LOGIT = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AgreementObjective(ONE_LOGIT, strength=-1.0), ValueError, "at least 0, but got -1.0"),
        (lambda: AgreementObjective(ONE_LOGIT, strength=float("inf")), ValueError, "finite"),
        (lambda: AgreementObjective(ONE_LOGIT, num_boxes=0), ValueError, "positive integer, but got 0"),
        (lambda: AgreementObjective(ONE_LOGIT, num_places=2.5), ValueError, "positive integer, but got 2.5"),
        (lambda: AgreementObjective(ONE_LOGIT, size=0.2), ValueError, "a range within"),
        (lambda: AgreementObjective(ONE_LOGIT)(X[0], Y), ValueError, "images must have shape"),
        (lambda: AgreementObjective(ONE_LOGIT)(X, Y), ValueError, r"logits must have shape \(B, K\).*got \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
