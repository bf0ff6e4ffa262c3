"""A Lightning module around the layer: a tagger of sequences with variational dropout.

pip install lightning, then python examples/lightning_module.py
"""

from __future__ import annotations

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rnndrop_cuda import LSTM

FEATURES, TAGS = 8, 2


class Tagger(lightning.LightningModule):
    """A tag for each step of a sequence."""

    def __init__(self, hidden_size: int = 32, dropout: float = 0.25) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lstm = LSTM(
            FEATURES, hidden_size, batch_first=True, bidirectional=True, input_dropout=dropout, hidden_dropout=dropout
        )
        self.head = nn.Linear(2 * hidden_size, TAGS)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        scores: Tensor = self.head(self.lstm(x, lengths=lengths)[0])
        return scores

    def loss(self, batch: list[Tensor]) -> Tensor:
        x, lengths, tags = batch
        return nn.functional.cross_entropy(self(x, lengths).flatten(0, 1), tags.flatten(), ignore_index=-1)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def sequences(n: int, T: int = 12) -> TensorDataset:
    """Whose tags say whether the first feature has been positive more often than not; -1 past the end."""
    x, lengths = torch.randn(n, T, FEATURES), torch.randint(1, T + 1, (n,))
    tags = (x[..., 0].sign().cumsum(1) > 0).long()
    return TensorDataset(x, lengths, tags.masked_fill(torch.arange(T) >= lengths[:, None], -1))


def main(epochs: int = 5) -> tuple[Tagger, float, float]:
    """The trained module, and its loss on other sequences before and after."""
    lightning.seed_everything(0)
    train, validation = DataLoader(sequences(512), batch_size=32, shuffle=True), DataLoader(sequences(128), 128)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="auto", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    tagger = Tagger()
    before = trainer.validate(tagger, validation, verbose=False)[0]["val_loss"]
    trainer.fit(tagger, train, validation)
    after = trainer.validate(tagger, validation, verbose=False)[0]["val_loss"]
    return tagger, before, after


if __name__ == "__main__":
    _, before, after = main()
    print(f"loss on other sequences: {before:.3f} before, {after:.3f} after")
