"""Hugging Face's Trainer: accumulated steps taken again, and tokens, numbers and several labels for each example."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import assay
from assay.core.errors import Mismatch, UsageError
from assay.integrations.data_spec import DataSpec
from assay.runs.recording import Recording
from assay.runs.run import Run
from integrations.test_huggingface import SEED, mean_loss, trainer_of
from integrations.texts import CLASSES, WORDS, Texts, bert, padded

accelerate = pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")
huggingface = pytest.importorskip("assay.integrations.huggingface")
pytestmark = [
    pytest.mark.slow,
    # What the libraries themselves warn of is theirs.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:.*is not recorded"),
    pytest.mark.filterwarnings("error:.*gradients of your loop"),
]


def uncounted(**settings):
    """A model that says that it does not divide by the number of labels in all batches of a step."""
    model = bert(**settings)
    model.accepts_loss_kwargs = False
    return model


class Heeds(transformers.BertForSequenceClassification):
    """Divides the sum of the losses by the number of labels that it is told."""

    accepts_loss_kwargs = True

    def forward(self, input_ids=None, attention_mask=None, labels=None, num_items_in_batch=None, **kwargs):
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        if labels is not None:
            reduction = "mean" if num_items_in_batch is None else "sum"
            outputs["loss"] = F.cross_entropy(outputs.logits, labels, reduction=reduction)
            if num_items_in_batch is not None:
                outputs["loss"] = outputs["loss"] / num_items_in_batch
        return outputs


def heeding(**settings):
    model = bert(**settings)
    model.__class__ = Heeds
    return model


def gpt(seed=2):
    config = transformers.GPT2Config(
        vocab_size=WORDS + 64, n_positions=16, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config)


def language(items):
    batch = padded(items)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def tagged(items):
    batch = language(items)
    return batch | {"labels": batch["labels"].where(batch["labels"] == -100, batch["labels"] % CLASSES)}


def numbers(items):
    batch = padded(items)
    return batch | {"labels": batch["labels"].float() * 0.7}


def several(items):
    batch = padded(items)
    return batch | {"labels": F.one_hot(batch["labels"], CLASSES).float()}


def tagger():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return transformers.BertForTokenClassification(bert().config)


def multi(**settings):
    model = bert(**settings)
    model.config.problem_type = "multi_label_classification"
    return model


HELD = Texts(8, 40).items
ACCUMULATED = {
    "ignores the count": (bert, "mean", 1),
    "divides by batches": (uncounted, "mean", "batches"),
    "heeds the count": (heeding, "sum", "examples"),
}


@pytest.mark.parametrize("name", ACCUMULATED)
def test_accumulated_steps_are_taken_again_as_the_trainer_divides_them(tmp_path, name):
    model, reduction, accumulate = ACCUMULATED[name]
    # 6 batches, the last one smaller, in steps of 4 and 2.
    trainer = trainer_of(tmp_path, model=model(), gradient_accumulation_steps=4, max_grad_norm=0.0)
    if name == "ignores the count" and not trainer.model_accepts_loss_kwargs:
        # Before transformers 5 BERT is not told the count, and the Trainer divides.
        accumulate = "batches"
    attached = assay.attach(trainer, tmp_path / "run", Recording(checkpoints="every"), seed=SEED)
    trainer.train()
    held = padded(HELD)
    targets = {"validation": lambda model: F.cross_entropy(model(**held).logits, held["labels"])}

    def scored(loop):
        return assay.score(tmp_path / "run", "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"].values

    # As somebody would describe a loop of their own that divides alike.
    loop = attached.loop()
    forward = huggingface.NamedForward()
    own = assay.Loop(
        loop.model,
        loop.optimizer,
        loop.loader,
        forward=forward,
        losses=huggingface.cross_entropies_of(forward),
        reduction=reduction,
        accumulate=accumulate,
        begin_epoch=loop.begin_epoch,
    )
    torch.testing.assert_close(scored(loop), scored(own), rtol=1e-4, atol=1e-9)
    fresh = huggingface.loop_of(trainer_of(tmp_path, model=model(), gradient_accumulation_steps=4, max_grad_norm=0.0))
    assert torch.equal(scored(fresh), scored(loop))
    wrong = {1: "batches", "batches": 1, "examples": None}[accumulate]
    with pytest.raises((Mismatch, UsageError)):
        scored(attached.loop(accumulate=wrong))


def test_where_the_division_cannot_be_told_the_loop_is_refused(tmp_path):
    def odd(outputs, labels, num_items_in_batch=None):
        return F.cross_entropy(outputs.logits, labels) * (1 + torch.as_tensor(num_items_in_batch or 1).sqrt())

    trainer = trainer_of(tmp_path, compute_loss_func=odd, gradient_accumulation_steps=2)
    losses = huggingface.cross_entropies_of(huggingface.NamedForward())
    with pytest.raises(UsageError, match=r"is told that a step has 4 labels, then twice as many, .* accumulate=\.\.\.\), as for"):
        huggingface.loop_of(trainer, losses=losses)
    assert huggingface.loop_of(trainer, losses=losses, accumulate=2).accumulate == 2
    told = trainer_of(tmp_path, compute_loss_func=mean_loss, gradient_accumulation_steps=2)
    assert huggingface.loop_of(told, losses=losses).accumulate == 1


def each_loss(kind, logits, labels):
    if kind == "language":
        logits, labels = logits[:, :-1], labels[:, 1:]
    if kind == "numbers":
        return (logits[:, 0] - labels).square()
    if kind == "several":
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
    flat = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return flat.sum(1) / (labels != -100).sum(1)


TASKS = {
    "language": (gpt, language),
    "tokens": (tagger, tagged),
    "numbers": (lambda: bert(classes=1), numbers),
}


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("name", TASKS)
def test_losses_of_tokens_and_numbers_are_recorded_and_their_training_taken_again(tmp_path, name, accumulate):
    model, collate = TASKS[name]

    def made():
        return trainer_of(tmp_path, model=model(), data_collator=collate, gradient_accumulation_steps=accumulate)

    seen = []
    trainer = made()
    inside = trainer.compute_loss

    def looked(model, inputs, return_outputs=False, **kwargs):
        labels = inputs["labels"]
        loss, outputs = inside(model, inputs, return_outputs=True, **kwargs)
        seen.append((inputs["input_ids"][:, 0] - WORDS, each_loss(name, outputs.logits.detach(), labels)))
        return (loss, outputs) if return_outputs else loss

    trainer.compute_loss = looked
    attached = assay.attach(trainer, tmp_path / "run", Recording(checkpoints="every", live=[]), seed=SEED)
    trainer.train()
    run = Run(tmp_path / "run")
    assert run.task == "losses" and run.epochs == 2
    for epoch in range(2):
        expected = torch.zeros(22, dtype=torch.float64)
        for which, values in seen[6 * epoch : 6 * epoch + 6]:
            expected[which] = values.double()
        torch.testing.assert_close(run.shard(epoch).read("losses").double(), expected, rtol=1e-5, atol=1e-6)
    held = collate(HELD)
    targets = {"validation": lambda model: model(**held).loss}
    scores = assay.score(run, ["loss", "sgd_influence"], loop=attached.loop(), targets=targets, save=False)
    assert all(bool(scores[title].values.isfinite().all()) for title in ("loss", "sgd_influence"))
    callback = assay.huggingface.Recorder(tmp_path / "callback", Recording(checkpoints="every"), seed=SEED)
    other = trainer_of(
        tmp_path, model=model(), data_collator=collate, gradient_accumulation_steps=accumulate, callbacks=[callback]
    )
    other.train()
    assert Run(tmp_path / "callback").fingerprint == run.fingerprint


@pytest.mark.parametrize("view", ["train", "eval"])
def test_several_labels_are_recorded_label_by_label(tmp_path, view):
    trainer = trainer_of(tmp_path, model=multi(dropout=0.0), data_collator=several)
    attached = assay.attach(trainer, tmp_path / "run", Recording(view=view, checkpoints="every"), seed=SEED)
    trainer.train()
    run = Run(tmp_path / "run")
    assert run.task == "labels" and torch.equal(run.label_matrix().float(), several(Texts().items)["labels"])
    held = several(HELD)
    scores = assay.score(
        run,
        ["aum", "sgd_influence"],
        loop=attached.loop(),
        targets={
            "validation": lambda model: F.binary_cross_entropy_with_logits(
                model(**{**held, "labels": None}).logits, held["labels"]
            )
        },
        save=False,
    )
    assert scores["aum"].values.isfinite().all() and scores["sgd_influence"].values.isfinite().all()
    callback = assay.huggingface.Recorder(tmp_path / "callback", Recording(view=view, checkpoints="every"), seed=SEED)
    trainer_of(tmp_path, model=multi(dropout=0.0), data_collator=several, callbacks=[callback]).train()
    assert Run(tmp_path / "callback").fingerprint == run.fingerprint
    # Without its problem in the config the model finds out when it is called first.
    late = trainer_of(tmp_path, model=bert(), data_collator=several)
    assay.attach(late, tmp_path / "late")
    with pytest.raises(UsageError, match=r"an example has 3 labels, each 0 or 1; say so by data=assay.DataSpec\(task='labels'\)"):
        late.train()
    late = trainer_of(tmp_path, model=bert(), data_collator=several)
    assay.attach(late, tmp_path / "said", data=DataSpec(task="labels"))
    late.train()
    assert Run(tmp_path / "said").task == "labels"


def own_loop(folder, name, prepares):
    """Two epochs of a loop of one's own over batches that are dicts, by accelerate or without it: the run, and the influence of its steps."""
    model, collate = {**TASKS, "several": (multi, several)}[name]
    model, accelerator = model(), accelerate.Accelerator(cpu=True) if prepares else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    loader = DataLoader(Texts().items, 4, shuffle=True, collate_fn=collate)
    if accelerator is not None:
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    def logits_of(model, batch):
        return model(**{key: value for key, value in batch.items() if key != "labels"}).logits

    def losses(model, batch):
        return each_loss(name, logits_of(model, batch), batch["labels"])

    data = DataSpec(task="labels") if name == "several" else DataSpec(task="losses", losses=losses)
    with assay.record(folder, model, optimizer, loader, Recording(checkpoints="every"), data=data, seed=SEED) as recorder:
        for _ in range(2):
            for batch in recorder.epoch():
                logits = logits_of(model, batch)
                each = each_loss(name, logits, batch["labels"])
                recorder.batch(logits, batch["labels"]) if name == "several" else recorder.losses(each)
                optimizer.zero_grad()
                each.mean().backward() if accelerator is None else accelerator.backward(each.mean())
                optimizer.step()
    begin = {"begin_epoch": loader.set_epoch} if prepares else {}
    held = collate(HELD)
    loop = assay.Loop(model, optimizer, loader, losses=losses, **begin)
    targets = {"validation": lambda model: losses(model, held).mean()}
    influence = assay.score(folder, "sgd_influence", loop=loop, targets=targets, save=False)["sgd_influence"]
    return Run(folder), influence.values


@pytest.mark.parametrize("name", [*TASKS, "several"])
def test_a_loop_of_accelerate_records_what_a_plain_one_does(tmp_path, name):
    (plain, values), (run, by_accelerate) = (own_loop(tmp_path / str(prepares), name, prepares) for prepares in (False, True))
    assert run.task == ("labels" if name == "several" else "losses") and run.epochs == 2
    for epoch in range(2):
        for fact in ("losses", "order"):
            assert torch.equal(run.shard(epoch).read(fact), plain.shard(epoch).read(fact))
    assert torch.equal(by_accelerate, values)


def smooth_l1(model, batch):
    outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return F.smooth_l1_loss(outputs.logits[:, 0], batch["labels"], reduction="none")


def smooth(outputs, labels, num_items_in_batch=None):
    return F.smooth_l1_loss(outputs.logits[:, 0], labels)


@pytest.mark.parametrize("form", ["attach", "callback"])
def test_losses_of_ones_own_are_read_from_what_the_training_step_returned(tmp_path, form):
    settings = {"data_collator": numbers, "compute_loss_func": smooth}
    data = DataSpec(task="losses", losses=smooth_l1)
    weights = []
    for recorded in (False, True):
        callback = [assay.huggingface.Recorder(tmp_path / "run", data=data)] if recorded and form == "callback" else []
        trainer = trainer_of(tmp_path, model=bert(classes=1), callbacks=callback, **settings)
        if recorded and form == "attach":
            attached = assay.attach(trainer, tmp_path / "run", Recording(checkpoints="every"), data=data, seed=None)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(one.values() for one in weights), strict=True))
    assert Run(tmp_path / "run").task == "losses"
    if form == "attach":
        assert attached.loop().losses is smooth_l1


def test_what_is_told_by_no_model_is_refused_with_a_cure_that_works(tmp_path):
    trainer = trainer_of(tmp_path, model=bert(classes=1), data_collator=numbers, compute_loss_func=smooth)
    assay.attach(trainer, tmp_path / "own")
    with pytest.raises(
        UsageError, match=r"a loss of its own of numbers; give data=assay.DataSpec\(task='losses', losses=\.\.\.\)"
    ):
        trainer.train()
    twice = DataSpec(task="losses", losses=lambda model, batch: smooth_l1(model, batch) + smooth_l1(model, batch))
    trainer = trainer_of(tmp_path, model=bert(classes=1), data_collator=numbers)
    assay.attach(trainer, tmp_path / "twice", data=twice)
    with pytest.raises(UsageError, match=r"losses= calls the model 2 times for a batch"):
        trainer.train()
    clean = trainer_of(tmp_path, model=gpt(), data_collator=language)
    assay.attach(clean, tmp_path / "clean", Recording(view="eval"))
    with pytest.raises(
        UsageError, match="A clean pass does not know by which loss an example of many tokens is recorded; give data="
    ):
        clean.train()

    def means(model, batch):
        return assay.token_losses(model(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:])

    clean = trainer_of(tmp_path, model=gpt(), data_collator=language)
    assay.attach(clean, tmp_path / "cured", Recording(view="eval"), data=DataSpec(task="losses", losses=means))
    clean.train()
    assert Run(tmp_path / "cured").task == "losses"

    class Mine(transformers.BertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.inside = transformers.BertForTokenClassification(config)

        def forward(self, input_ids, attention_mask, labels=None):
            return self.inside(input_ids=input_ids, attention_mask=attention_mask, labels=labels)

    unknown = trainer_of(tmp_path, model=Mine(bert().config), data_collator=tagged)
    assay.attach(unknown, tmp_path / "unknown")
    with pytest.raises(
        UsageError, match=r"it is not known which label belongs to which; give data=assay.DataSpec\(task='losses'"
    ):
        unknown.train()


class Tuner(transformers.Trainer):
    """Calls the library's loss and notes what it sees in it, as trainers for fine-tuning do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.noted = {"train": [], "eval": []}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        self.noted["train" if model.training else "eval"].append(float(outputs.logits.detach().float().softmax(-1).max()))
        return (loss, outputs) if return_outputs else loss


class Anchored(Tuner):
    """Pulls the weights to 0 besides."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        loss = loss + 0.01 * sum(value.square().sum() for value in model.parameters() if value.requires_grad)
        return (loss, outputs) if return_outputs else loss


def adapted():
    """A small GPT of which adapters alone are trained."""
    peft = pytest.importorskip("peft")
    model = TASKS["language"][0]()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
        return peft.get_peft_model(model, config)


@pytest.mark.parametrize("name", ["classes", "smoothed", "adapters"])
def test_a_subclass_that_calls_the_librarys_loss_is_taken_again_as_the_library_s(tmp_path, name):
    model, collate = (adapted, TASKS["language"][1]) if name == "adapters" else (bert, padded)
    settings = {"label_smoothing_factor": 0.1} if name == "smoothed" else {}
    held = collate(HELD) if name == "adapters" else padded(HELD)
    targets = {"validation": lambda model: model(**held).loss}
    found = {}
    for kind in (transformers.Trainer, Tuner):
        folder = tmp_path / kind.__name__
        trainer = trainer_of(folder, kind, model=model(), data_collator=collate, num_train_epochs=2, **settings)
        recording = Recording(checkpoints="every", live=[] if name == "adapters" else ["liveval"])
        attached = assay.attach(trainer, folder / "run", recording, seed=SEED)
        trainer.train()
        if kind is Tuner:
            # A note for each batch, and none of what assay looked at.
            assert len(trainer.noted["train"]) == 12 and not trainer.noted["eval"]
        titles = ["sgd_influence", "tracin"]
        found[kind] = assay.score(folder / "run", titles, loop=attached.loop(), targets=targets, save=False)
    runs = [Run(tmp_path / kind.__name__ / "run") for kind in found]
    assert [one.shard.sums for one in runs[0].commits] == [one.shard.sums for one in runs[1].commits]
    for title, scores in found[Tuner].items():
        assert torch.equal(scores.values, found[transformers.Trainer][title].values) and bool(scores.values.any())


def test_a_subclass_that_adds_to_the_librarys_loss_has_a_loss_of_its_own(tmp_path):
    trainer = trainer_of(tmp_path, Anchored)
    attached = assay.attach(trainer, tmp_path / "run", Recording(checkpoints="every"), seed=SEED)
    trainer.train()
    for loop in (attached.loop, lambda: huggingface.loop_of(trainer)):
        with pytest.raises(UsageError, match="Anchored computes a loss of its own; give the loss of each example as losses="):
            loop()
    assert len(trainer.noted["train"]) == 12 and not trainer.noted["eval"]
    with pytest.raises(UsageError, match="Anchored computes a loss of its own, and liveval values its steps"):
        assay.attach(trainer_of(tmp_path, Anchored), tmp_path / "other", Recording(live=["liveval"]))
