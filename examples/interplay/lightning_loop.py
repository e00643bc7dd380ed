"""A LightningModule around `CausalObjective`, with a bank of confounders and the AUROC of torchmetrics.

    python examples/interplay/lightning_loop.py

The bank is a buffer of the module, so that Lightning moves it, saves it in its checkpoints and resumes with it.
"""

from functools import partial

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.classification import MultilabelAUROC

import causalcxr
from causalcxr.data import SyntheticCXR


class CausalClassifier(lightning.LightningModule):
    """A causal model with its loss; batches are images (B, 1, H, W) in [0, 1] and targets (B, K) of 0 and 1."""

    def __init__(self, name: str, *, num_classes: int = 14, bank_size: int = 64, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        model = causalcxr.create_model(name, num_classes=num_classes, in_chans=1)
        bank = causalcxr.layers.ConfounderBank(bank_size, num_classes, model.head_hidden_size)
        self.objective = causalcxr.CausalObjective(model, bank=bank)
        self.prepare = partial(causalcxr.data.normalise, cfg=model.pretrained_cfg)
        self.auroc = MultilabelAUROC(num_classes)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        losses = self.objective(self.prepare(images), targets)
        self.log_dict(losses)
        return losses["loss"]

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, targets = batch
        self.auroc.update(self.objective.model(self.prepare(images)).sigmoid(), targets.long())
        self.log("val_auroc", self.auroc)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, _ = batch
        return self.objective.model.predict_do(self.prepare(images), self.objective.bank)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.objective.parameters(), lr=self.hparams.lr)


def main() -> None:
    lightning.seed_everything(0)
    options = dict(image_size=64, labels=["Cardiomegaly", "Mass"], prevalence=0.5)
    train = DataLoader(SyntheticCXR(320, **options), batch_size=8)
    val = DataLoader(SyntheticCXR(96, seed=1, **options), batch_size=32)
    module = CausalClassifier("causal_test_resnet", num_classes=2)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, train, val)
    print({name: round(value.item(), 3) for name, value in trainer.callback_metrics.items()})
    print(f"{len(module.objective.bank)} confounders in the bank; P(Y | do(X)) of the first films:")
    print(trainer.predict(module, val)[0][:3])


if __name__ == "__main__":
    main()
