"""pytorch-grad-cam and Captum explain the model as it is: heat maps by hand, and effects that add up."""

import pytest
import torch
import torch.nn.functional as F

import causalcxr

pytestmark = pytest.mark.integration

LABEL = 7


def to_unit(heat):
    heat = heat - heat.amin(dim=(2, 3), keepdim=True)
    return heat / (1e-7 + heat.amax(dim=(2, 3), keepdim=True))


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [("causal_test_resnet", {}, (64, 96)), ("causal_timm", {"backbone": "test_vit"}, (160, 160))],
    ids=["convolutional", "transformer"],
)
def test_hires_cam_by_hand(example, name, options, size):
    library = pytest.importorskip("pytorch_grad_cam")
    torch.manual_seed(0)
    model = causalcxr.create_model(name, **options).eval()
    images = torch.randn(2, 3, *size)
    features = model.head.feature_learning(model.forward_features(images)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.head.decode(features).logits[:, LABEL].sum(), features)
    heat = to_unit((gradient * features.detach()).sum(dim=1, keepdim=True).relu())
    expected = to_unit(F.interpolate(heat, size, mode="bilinear"))[:, 0]
    assert (expected.amax(dim=(1, 2)) > 0.99).all()  # not a map without heat
    found = example("grad_cam_maps").heat_maps(library.HiResCAM, model, images, LABEL)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_grad_cam_example_finds_the_mass(printed, numbers):
    pytest.importorskip("pytorch_grad_cam")
    flat, grad_cam, hires_cam, _ = numbers(printed("grad_cam_maps"))
    assert min(grad_cam, hires_cam) > 1.2 * flat  # which a heat map without information has


def test_captum_example_accounts_for_the_stamp(printed, numbers):
    pytest.importorskip("captum")
    effect, total, share, branch_effect, branch_total, branch_share, covered = numbers(printed("captum_attributions"))
    assert effect > 0.1  # in training the stamp went with the finding
    assert total == pytest.approx(effect, rel=0.05)
    assert branch_total == pytest.approx(branch_effect, rel=0.05, abs=2e-3)
    assert share == branch_share == pytest.approx(covered, abs=1e-3)
    assert 0 < covered < 0.1
