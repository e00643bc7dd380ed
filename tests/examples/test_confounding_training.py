"""Ways to train against a confounder: what each objective gets, and which epoch and which weights come back."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import causalcxr
import confounding_training
from causalcxr.bench import StratifiedImages
from causalcxr.losses import backdoor_weights
from causalcxr.outputs import CausalOutput
from confounding_benchmark import options
from confounding_branches import PooledConfounder, cluster, similarity
from confounding_data import confound, read
from confounding_methods import METHODS, GroupDRO, Method
from confounding_training import Cropped, Training, build, draw, selection_auroc, take_backbone, train

TINY = {"model": "test_resnet", "causal_model": "causal_test_resnet", "image_size": 64, "epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def radiographs() -> Any:
    return read("synthetic:240", "", 64)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name: str, radiographs: Any) -> None:
    torch.manual_seed(0)
    start = build(METHODS[name], Training(**TINY)).state_dict()
    parts = confound(radiographs, "letter", 0.8, 0.8, seed=0)
    model = train(METHODS[name], parts, Training(**TINY), seed=0)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1)
    trained = model.state_dict()
    changed = [key for key in start if key in trained and not torch.equal(start[key], trained[key])]
    assert any(key.endswith("conv1.0.weight") for key in changed)


def test_group_dro_raises_the_share_of_the_worst_group() -> None:
    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[3.0], [3.0], [-3.0], [3.0]])  # wrong on the second alone: a negative with the marker

    objective = GroupDRO(Fixed(), step_size=1.0)
    targets, strata = torch.tensor([[1.0], [0.0], [0.0], [1.0]]), torch.tensor([1, 1, 0, 0])
    first = objective(torch.zeros(4), targets, strata)["loss"]
    losses = torch.nn.functional.softplus(torch.tensor([-3.0, 3.0, -3.0, -3.0]))
    share = losses[[2, 1, 3, 0]].exp() / losses.exp().sum()  # groups: 2 y + c
    torch.testing.assert_close(objective.share, share)
    torch.testing.assert_close(first, (share * losses[[2, 1, 3, 0]]).sum())


def test_pooled_confounder_is_the_mean_of_the_map() -> None:
    model = build(METHODS["causal"], Training(**TINY))
    encoded = torch.randn(2, model.num_features, 3, 5)
    pooled = PooledConfounder(model.head.decoder)(encoded)
    torch.testing.assert_close(pooled.confounder, encoded.mean(dim=(2, 3))[:, None])
    torch.testing.assert_close(pooled.causal, model.head.decoder(encoded).causal)


def test_similarity_of_features_is_one_for_rotated_and_none_for_independent_ones() -> None:
    features, _ = torch.linalg.qr(torch.randn(40, 8, dtype=torch.float64) - 3)
    features = features - features.mean(dim=0)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    assert similarity(features, 2 * features @ rotation + 1) == pytest.approx(1)
    outside, _ = torch.linalg.qr(torch.cat([torch.ones(40, 1), features, torch.randn(40, 5)], dim=1).double())
    assert similarity(features, outside[:, 9:]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("method", "kept"), [("causal_keep_attended", 0.5), ("causal_borrow_attended", 0.9)])
def test_region_kept_is_where_the_causal_branch_looks_or_where_it_does_not(method: str, kept: float) -> None:
    torch.manual_seed(0)
    model = build(METHODS[method], Training(**TINY)).train()
    images, seen = torch.randn(4, 3, 64, 64), []
    objective = METHODS[method].objective(model, torch.zeros(4, dtype=torch.long))
    objective.borrow.probability = 1.0
    objective.objective.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        attention = model.eval().forward_causal(images, need_attention=True).attention.mean(dim=1)
        model.train()
    objective(images, torch.tensor([[0.0], [1.0], [0.0], [1.0]]))["loss"].backward()
    assert model.training
    counts = [buffer for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 1 for count in counts)  # of the images that are trained on
    same = (seen[0] == images).all(dim=1).float()
    assert same.mean() == pytest.approx(kept, abs=0.02)
    larger = torch.nn.functional.interpolate(attention[:, None], size=(64, 64), mode="bilinear")[:, 0]
    on_kept = (larger * same).sum() / same.sum()
    on_borrowed = (larger * (1 - same)).sum() / (1 - same).sum()
    assert (on_kept > on_borrowed) == (method == "causal_keep_attended")


def test_clusters_are_found_within_each_class() -> None:
    class Told(nn.Module):
        """Confounding features that show the finding strongly and the marker a little."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.forward_causal(images).logits

        def forward_causal(self, images: torch.Tensor, need_attention: bool = False) -> CausalOutput:
            z, features = images[:, :1, 0, 0], 10 * images[:, :1, 0, :1] + images[:, :1, 0, 1:2]
            return CausalOutput(z, z, z[:, None], features, features, None)

    targets, marker = torch.tensor([0.0, 0, 0, 1, 1, 1]), torch.tensor([0.0, 0, 1, 0, 1, 1])
    images = torch.stack([targets, marker], dim=1).view(6, 1, 1, 2)
    data = StratifiedImages(images, targets, marker.long())
    found = cluster(Told(), data, seed=0)
    for value in (0, 1):
        chosen, strata = found[targets == value], marker[targets == value].long()
        assert torch.equal(chosen, strata) or torch.equal(1 - chosen, strata)


def test_drawing_by_weights_undoes_the_association_alone() -> None:
    targets, strata = torch.zeros(4000, 1), torch.zeros(4000, dtype=torch.long)
    targets[:1200] = 1  # 30 %
    strata[:760] = strata[1200:1240] = 1  # 20 %, 95 % of them positive
    drawn = draw(targets, strata, np.random.default_rng(0))
    assert len(drawn) == 4000
    positive, marked = targets[drawn, 0].numpy(), strata[drawn].numpy()
    assert positive.mean() == pytest.approx(0.3, abs=0.03)  # at least 3 standard errors
    assert marked.mean() == pytest.approx(0.2, abs=0.03)
    assert marked[positive == 1].mean() == pytest.approx(0.2, abs=0.04)


class Recorder(nn.Module):
    """An objective that keeps what it is given."""

    def __init__(self, model: nn.Module, strata: torch.Tensor) -> None:
        super().__init__()
        self.model, self.strata, self.given = model, strata, []

    def forward(self, images: torch.Tensor, targets: torch.Tensor, *strata: Any, **options: Any) -> dict[str, Any]:
        self.given.append((targets, *strata, options["weight"]))
        return {"loss": self.model(images).mean()}


def record(method: Method, radiographs: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Recorder, list[bool]]:
    """Train two epochs; return the data, the objective, and for each epoch whether its choice was adjusted."""
    adjusted, recorders = [], []
    monkeypatch.setattr(
        confounding_training, "selection_auroc", lambda model, data, known: adjusted.append(known) or 0.5
    )
    method = method._replace(objective=lambda model, strata: recorders.append(Recorder(model, strata)) or recorders[0])
    parts = confound(radiographs, "letter", 0.9, 0.9, seed=0)
    train(method, parts, Training(**TINY | {"epochs": 2, "batch_size": 40}), seed=0)
    return parts.train, recorders[0], adjusted


def test_objective_gets_what_its_method_says(radiographs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, plain, adjusted = record(METHODS["plain"], radiographs, monkeypatch)
    assert adjusted == [False, False]
    assert len(data) == 120
    targets = torch.cat([targets for targets, _ in plain.given])
    assert targets[:120].sum() == targets[120:].sum() == data.targets.sum()  # every image once
    assert all((weight == 1).all() for _, weight in plain.given)

    _, weighted, adjusted = record(METHODS["backdoor_weights"], radiographs, monkeypatch)
    assert adjusted == [True, True]
    weights = torch.cat([weight for _, weight in weighted.given])[:120]
    torch.testing.assert_close(weights.sort(dim=0)[0], backdoor_weights(data.targets, data.strata).sort(dim=0)[0])

    _, drawn, adjusted = record(METHODS["backdoor_sampling"]._replace(takes_strata=True), radiographs, monkeypatch)
    assert adjusted == [True, True]
    y, c, weight = (torch.cat(column) for column in zip(*drawn.given, strict=True))
    assert (weight == 1).all()
    assert c[y[:, 0] == 0].float().mean() == pytest.approx(0.5, abs=0.2)  # 0.1 of the negatives have a letter

    monkeypatch.setattr(confounding_training, "cluster", lambda model, data, seed: torch.arange(len(data)) % 5)
    _, clusters, adjusted = record(METHODS["clusters"], radiographs, monkeypatch)
    assert adjusted == [False] * 4  # with the two of the causal model
    assert clusters.strata.unique().tolist() == [0, 1, 2, 3, 4]


def test_weights_of_the_best_epoch_come_back(radiographs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, torch.Tensor]] = []

    def falling(model: nn.Module, data: Any, known: bool) -> float:
        kept.append({key: value.clone() for key, value in model.state_dict().items()})
        return 1 / len(kept)

    monkeypatch.setattr(confounding_training, "selection_auroc", falling)
    parts = confound(radiographs, "letter", 0.9, 0.9, seed=0)
    model = train(METHODS["plain"], parts, Training(**TINY | {"epochs": 2, "batch_size": 40}), seed=0)
    assert not torch.equal(kept[0]["conv1.0.weight"], kept[1]["conv1.0.weight"])
    torch.testing.assert_close(dict(model.state_dict()), kept[0], rtol=0, atol=0)


def test_validation_images_are_weighted_where_the_confounder_is_known(radiographs: Any) -> None:
    data = confound(radiographs, "letter", 0.9, 0.9, seed=0).val
    known = {name for name, method in METHODS.items() if method.knows_confounder}
    assert known == {
        "backdoor_weights", "backdoor_sampling", "causal_weights", "stratified_bank", "group_dro", "last_layer",
    }  # fmt: skip
    marked = data.strata.float()

    class ReadsMarker(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return marked[: len(images), None] + 0 * images.mean()

    model = ReadsMarker()
    assert selection_auroc(model, data, adjusted=False) == pytest.approx(0.9, abs=0.05)
    assert selection_auroc(model, data, adjusted=True) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("method", ["plain", "causal"])
def test_training_starts_from_the_backbone_of_published_weights(method: str) -> None:
    name = "causal_efficientnet_lite0"
    donor = causalcxr.create_model(name, pretrained=True)
    model = build(METHODS[method], Training(backbone_weights=name))
    backbone = model.backbone if method == "causal" else model
    for key, value in donor.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value)
    assert options(Training(backbone_weights=name))["backbone_weights"] == name


def test_backbones_that_do_not_fit_are_refused() -> None:
    name = "causal_efficientnet_lite0"
    with pytest.raises(ValueError, match=f"{name} does not fit ResNet: they differ in 'conv_stem.weight'"):
        take_backbone(timm.create_model("test_resnet"), name)
    with pytest.raises(ValueError, match=r"does not fit EfficientNet: they differ in 'blocks\.1\.2"):
        take_backbone(timm.create_model("tf_efficientnet_lite1"), name)  # as wide, and deeper
    with pytest.raises(ValueError, match=r"weights must be a file or one of \['causal_eff.*, got 'missing.pt'"):
        build(METHODS["plain"], Training(backbone_weights="missing.pt"))


def test_cropped_model_does_not_see_the_border() -> None:
    model = Cropped(build(METHODS["plain"], Training(**TINY)).eval(), crop=0.5)
    images = torch.randn(1, 3, 64, 64)
    other = images.clone()
    other[..., :15, :] = 0
    torch.testing.assert_close(model(images), model(other))
