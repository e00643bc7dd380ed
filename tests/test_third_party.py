"""Tools that expect a plain classifier work, since `forward` returns one tensor."""

import torch
from captum.attr import LayerGradCam

import causalcxr


def test_captum_grad_cam() -> None:
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet").eval()
    images = torch.randn(2, 3, 64, 96, requires_grad=True)
    label = 7
    found = LayerGradCam(model, model.backbone.layer4).attribute(images, target=label)
    # Grad-CAM by hand: the layer's channels weighted by the mean gradient of the label's logit.
    kept = {}
    handle = model.backbone.layer4.register_forward_hook(lambda _module, _inputs, output: kept.update(map=output))
    logits = model(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, label].sum(), kept["map"])
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * kept["map"]).sum(dim=1, keepdim=True)
    assert found.shape == (2, 1, 4, 6)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
