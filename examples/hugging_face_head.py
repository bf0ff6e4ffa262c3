"""A Hugging Face model with the layer as a new head on a pretrained encoder.

from_pretrained creates what the checkpoint lacks without values, and leaves it to _init_weights to give it some. The
layer would draw its own when it is passed over; here the method names it, and is the place for other values.

pip install transformers, then python examples/hugging_face_head.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertPreTrainedModel

from rnndrop_cuda import LSTM


class BertWithLSTM(BertPreTrainedModel):
    """BERT, an LSTM with variational dropout over its outputs, and a label for the last step."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.lstm = LSTM(config.hidden_size, 16, batch_first=True, input_dropout=0.25, hidden_dropout=0.25)
        self.classifier = nn.Linear(16, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LSTM):
            module.reset_parameters()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        outputs = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        _, (h_n, _) = self.lstm(outputs, lengths=attention_mask.sum(1))
        scores: Tensor = self.classifier(h_n[-1])
        return scores


def main(folder: Path) -> tuple[BertWithLSTM, BertWithLSTM]:
    """A model on an encoder that was saved without the head, trained for a step, and the same, saved and loaded."""
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder / "encoder")  # in the place of "bert-base-uncased"
    model = BertWithLSTM.from_pretrained(folder / "encoder")

    words, present = torch.randint(50, (4, 10)), (torch.arange(10) < torch.tensor([[10], [3], [7], [1]])).long()
    optimizer = torch.optim.AdamW(model.parameters())
    model.train()
    nn.functional.cross_entropy(model(words, present), torch.tensor([0, 1, 1, 0])).backward()
    optimizer.step()

    model.save_pretrained(folder / "trained")
    return model.eval(), BertWithLSTM.from_pretrained(folder / "trained").eval()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        trained, loaded = main(Path(folder))
        print("the same weights after loading:", torch.equal(trained.lstm.weight_hh_l0, loaded.lstm.weight_hh_l0))
