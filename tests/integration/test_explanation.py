"""pytorch-grad-cam and Captum explain the model as it is: heat maps that find a mass, and effects that add up."""

import pytest

pytestmark = pytest.mark.integration


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
