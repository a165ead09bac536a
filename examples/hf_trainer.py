"""Which of a text classifier's labels are wrong, and which examples helped: one line beside Hugging Face's Trainer."""

import sys

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator

import assay

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/hf"


def texts(count, seed, wrong=0.0):
    """Rows of 12 tokens about one of 4 topics; a share of the labels is of another topic."""
    draw = torch.Generator().manual_seed(seed)
    topics = torch.randint(4, (count,), generator=draw)
    about = torch.rand(count, 12, generator=draw) < 0.6
    own = 1 + 20 * topics[:, None] + torch.randint(20, (count, 12), generator=draw)
    tokens = torch.where(about, own, torch.randint(1, 101, (count, 12), generator=draw))
    flipped = torch.rand(count, generator=draw) < wrong
    labels = torch.where(flipped, (topics + 1) % 4, topics)
    return [{"input_ids": row, "labels": int(label)} for row, label in zip(tokens, labels, strict=True)], flipped


train_set, flipped = texts(320, 1, wrong=0.1)
held_out = default_data_collator(texts(40, 2)[0])
torch.manual_seed(0)
config = BertConfig(
    vocab_size=101, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=4
)
settings = TrainingArguments(
    f"{FOLDER}-trainer", num_train_epochs=6, learning_rate=3e-3, per_device_train_batch_size=16, save_strategy="no", report_to=[]
)
trainer = Trainer(BertForSequenceClassification(config), settings, train_dataset=train_set)
attached = assay.attach(trainer, FOLDER, assay.Recording(checkpoints="every"), seed=0)  # the one line
trainer.train()

table = assay.score(FOLDER, ["aum", "forgetting"])
suspects = assay.choose(table["aum"], policy="top_k", keep=0.9).dropped_ids
found = sum(bool(flipped[id]) for id in suspects)
print(f"{found} of the {len(suspects)} most suspect labels are wrong; {int(flipped.sum())} of {len(flipped)} are in all.")


def held_out_loss(model):
    """The mean loss on the held-out texts."""
    return F.cross_entropy(model(input_ids=held_out["input_ids"]).logits, held_out["labels"])


# The training is taken again, step by step, from what was recorded.
influence = assay.score(FOLDER, "sgd_influence", loop=attached.loop(), targets={"validation": held_out_loss})["sgd_influence"]
harmful = assay.choose(influence, policy="remove_worst", count=20).dropped_ids
print(f"{sum(bool(flipped[id]) for id in harmful)} of the 20 most harmful examples have a wrong label.")
