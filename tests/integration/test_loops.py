"""Lightning and Accelerate train as a plain loop does, to the last bit, and keep the bank."""

import copy
import re

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import causalcxr
from causalcxr.data import SyntheticCXR

pytestmark = [
    pytest.mark.integration,
    # lightning 2.6 with torch 2.15
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


@pytest.fixture
def films():
    films = SyntheticCXR(32, image_size=64, labels=["Cardiomegaly", "Mass"], prevalence=0.5)
    return TensorDataset(torch.stack([image for image, _ in films]), films.targets)


def train_by_hand(objective, films, epochs):
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    for _ in range(epochs):
        for images, targets in DataLoader(films, batch_size=8):
            optimizer.zero_grad()
            objective(images, targets)["loss"].backward()
            optimizer.step()


def assert_equal_states(found, expected):
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), atol=0, rtol=0)


def test_lightning_trains_as_a_loop_by_hand(example, films, tmp_path):
    lightning = pytest.importorskip("lightning")
    torch.manual_seed(0)
    module = example("lightning_loop").CausalClassifier("causal_test_resnet", num_classes=2, bank_size=20)
    by_hand = copy.deepcopy(module.objective)
    loader = DataLoader(films, batch_size=8)
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"], False)
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", **quiet)
    trainer.fit(module, loader, loader)
    train_by_hand(by_hand, films, epochs=2)
    assert_equal_states(module.objective, by_hand)
    assert len(module.objective.bank) == 20

    by_hand.eval()
    with torch.no_grad():
        logits = torch.cat([by_hand.model(images) for images, _ in loader])
    expected = causalcxr.metrics.auroc(logits, films.tensors[1]).mean()
    assert trainer.callback_metrics["val_auroc"].item() == pytest.approx(expected, abs=1e-6)

    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = type(module).load_from_checkpoint(tmp_path / "last.ckpt")
    assert_equal_states(resumed, module)
    images, _ = next(iter(loader))
    predicted = trainer.predict(resumed, loader)[0]
    torch.testing.assert_close(predicted, by_hand.model.predict_do(images, by_hand.bank))


@pytest.mark.parametrize("library", ["accelerate", "lightning"])
def test_loops_fill_the_bank(library, printed, numbers):
    pytest.importorskip(library)
    text = printed(f"{library}_loop")
    assert re.search("64 confounders", text)
    assert all(0 < probability < 1 for probability in numbers(text)[-6:])
