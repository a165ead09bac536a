"""Synthetic texts of token numbers by class, and a small BERT made from a config; nothing is downloaded."""

import torch
from torch.utils.data import Dataset

CLASSES, WORDS = 3, 24


class Texts(Dataset):
    """Example i begins with the token that tells its number; the other tokens are drawn from those of its class."""

    def __init__(self, size=22, first=0, more=None):
        draw = torch.Generator().manual_seed(first)
        self.more = more or {}
        self.items = []
        for number in range(size):
            label = (first + number) * 5 % 7 % CLASSES
            words = torch.randint(1 + 5 * label, 6 + 5 * label, (3 + number % 5,), generator=draw)
            self.items.append({"input_ids": [WORDS + number, *words.tolist()], "labels": label})

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return {**self.items[index], **self.more}


def padded(items):
    """A batch of texts, padded to the longest."""
    longest = max(len(item["input_ids"]) for item in items)
    rows = [item["input_ids"] + [0] * (longest - len(item["input_ids"])) for item in items]
    batch = {"input_ids": torch.tensor(rows), "labels": torch.tensor([item["labels"] for item in items])}
    return batch | {"attention_mask": (batch["input_ids"] > 0).long()}


def bert(seed=2, dropout=0.1, classes=CLASSES):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS + 64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=classes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(config)
