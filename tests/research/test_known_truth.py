"""Films of the structural causal model follow its equations, and the `predict_do` study pairs them as documented."""

import json

import pytest
import torch

from causalcxr.data import SyntheticCXR
from confounding import truth
from confounding.structural import OUTCOME, StructuralCXR
from confounding.truth import MODES, measure, paired, train
from reference.comparison import normal


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(truth, "TEST_FILMS", 40)
    monkeypatch.setattr(truth, "TRAINING", truth.TRAINING | {"films": 64, "epochs": 1})


def mean(values):
    return values.float().mean().item()


def test_counting_gives_the_closed_forms():
    r = 0.8
    films = StructuralCXR(40_000, correlation=r)
    y, x, c = films.targets[:, 0], films.finding, films.strata
    assert [mean(x), mean(c)] == pytest.approx([0.5] * 2, abs=0.015)
    for value in (0, 1):
        assert mean(c[x == value]) == pytest.approx(r if value else 1 - r, abs=0.015)
        cells = [mean(y[(x == value) & (c == stamp)]) for stamp in (0, 1)]
        assert cells == pytest.approx(OUTCOME[value], abs=0.05)
        assert sum(cells) / 2 == pytest.approx(films.do_probability(value), abs=0.03)


def test_images_show_finding_and_stamp():
    films = StructuralCXR(12, correlation=0.8, seed=3)
    painter = SyntheticCXR(12, image_size=64, labels=["Mass"], prevalence=0.5, images_per_patient=1, seed=3)
    for i in range(12):
        markers = ["portable"] if films.strata[i] else []
        expected = painter.sample(i, target=[float(films.finding[i])], markers=markers).image
        assert torch.equal(films[i][0], expected)


def test_every_mode_is_measured(tmp_path):
    truth.main(["--seeds=0", f"--output={tmp_path / 'runs'}", f"--json={tmp_path / 'truth.json'}"])
    assert [run["mode"] for run in json.loads((tmp_path / "truth.json").read_text())["runs"]] == list(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_films_are_paired_and_borrowed_as_the_mode_says(mode):
    images, strata, prior = normal(8, 3, 64, 64).float(), torch.arange(8) % 2, torch.tensor([0.3, 0.7])
    shown, weights = paired(mode, images, strata, prior)
    assert torch.equal(weights, prior if mode == "all_pairs" else torch.nn.functional.one_hot(strata, 2))
    assert torch.equal(shown, images) == (mode != "adjusted")
    assert torch.equal(shown[..., 28:36, 28:36], images[..., 28:36, 28:36])  # the middle is never borrowed


def test_the_bank_holds_the_code_of_each_film():
    films = StructuralCXR(64, correlation=0.9)
    _, bank = train("own_stratum", films, torch.zeros(64, 1, 64, 64), seed=0)
    _, counts = bank.features.unique(dim=0, return_counts=True)
    assert sorted(counts.tolist()) == sorted(films.strata.bincount().tolist())


class Known:
    """A perfect model: it knows X and P(Y | do(X)). Its logits read the stamp."""

    def __init__(self, films):
        self.films = films
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 64, 64)}

    def predict_do(self, x, bank):
        do = torch.tensor([self.films.do_probability(value) for value in (0, 1)])
        return do[self.films.finding][:, None].float()

    def __call__(self, x):
        return self.films.strata[:, None].float().mul(2).sub(1)


def test_errors_are_those_of_a_perfect_model_and_of_a_reader_of_the_stamp():
    films = StructuralCXR(40, correlation=0.9)
    figures = measure(Known(films), None, films, torch.stack([films[i][0] for i in range(40)]))
    assert figures["adjusted"] == pytest.approx(0.0, abs=1e-6)
    seen = torch.where(films.strata == 1, 1.0, -1.0).sigmoid()
    right = torch.tensor([films.do_probability(int(value)) for value in films.finding])
    assert figures["seen"] == pytest.approx(mean((seen - right).abs()))
