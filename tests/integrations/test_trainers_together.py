"""Hugging Face's Trainer in two processes: one run."""

import gc
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import assay
from assay.core.errors import Mismatch
from assay.runs.recording import Recording
from assay.runs.run import Run
from integrations.test_huggingface import trainer_of as one_process
from integrations.test_processes import free_port, together
from integrations.test_processes import one_process as one_process_of
from integrations.texts import Texts, bert, padded

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
RECORDING = Recording(live=["aum"], keep_logits=True, checkpoints="every")


def trainer_of(folder, **settings):
    return one_process(folder, model=bert(dropout=0.0), dataset=Texts(), **settings)


def by_attach(rank, folder):
    trainer = trainer_of(folder, ddp_backend="gloo")
    assay.attach(trainer, folder / "run", RECORDING, seed=3)
    trainer.train()
    del trainer
    gc.collect()


def by_callback(rank, folder):
    trainer = trainer_of(folder, ddp_backend="gloo", callbacks=[assay.huggingface.Recorder(folder / "run", RECORDING, seed=3)])
    trainer.train()
    del trainer
    gc.collect()


class Dies(transformers.TrainerCallback):
    """Ends the second process in the middle of the second epoch."""

    def on_step_begin(self, args, state, control, **more):
        if args.process_index == 1 and state.epoch >= 1 and state.global_step % 3 == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def one_dies(rank, folder):
    trainer = trainer_of(folder, ddp_backend="gloo", callbacks=[Dies()])
    assay.attach(trainer, folder / "run", RECORDING, seed=3)
    try:
        trainer.train()
    except BaseException as error:
        (folder / f"said-{rank}").write_text(f"{type(error).__name__}: {error}")
        raise


def test_a_killed_process_ends_the_trainer_of_the_other_with_a_named_error(tmp_path):
    port, context = free_port(), torch.multiprocessing.get_context("spawn")
    both = [context.Process(target=one_process_of, args=(rank, port, 2, one_dies, (tmp_path,))) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [1, -signal.SIGKILL]
    said = (tmp_path / "said-0").read_text()
    assert re.match(
        r"RunError: Process 0 of 2, .*: another process ended or does not answer \(.*\), so the epoch is not recorded; start all",
        said,
    )
    assert Run(tmp_path / "run").epochs == 1 and Run(tmp_path / "run").check()


SCRIPT = """
import pathlib
import sys

import torch

import assay
from integrations.test_trainers_together import RECORDING, Dies, trainer_of

folder = pathlib.Path(sys.argv[1])
callbacks = [Dies(), assay.huggingface.Recorder(folder / "run", RECORDING, seed=3)]
trainer_of(folder, ddp_backend="gloo", callbacks=callbacks).train()
"""


def test_a_killed_process_is_named_under_the_callback_which_no_trainer_tells_of_errors(tmp_path):
    script, port = tmp_path / "train.py", free_port()
    script.write_text(SCRIPT)
    told = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    here = os.pathsep.join([str(pathlib.Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    both = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": here,
                **{name: str(value) for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank}.items()},
            },
        )
        for rank in range(2)
    ]
    said, _ = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [1, -signal.SIGKILL]
    assert re.search(
        r"RunError: Process 0 of 2, epoch 1: another process ended or does not answer \(.*\), so the epoch is not recorded; start all",
        said,
    )
    assert Run(tmp_path / "run").epochs == 1 and Run(tmp_path / "run").check()


@pytest.mark.parametrize("part", [by_attach, by_callback])
def test_a_trainer_in_two_processes_records_one_run(tmp_path, part):
    together(part, tmp_path)
    run, texts = Run(tmp_path / "run"), Texts()
    assert run.epochs == 2 and run.check() and run.processes == 2 and len(run.ids) == len(texts)
    assert run.labels.tolist() == [int(texts[place]["labels"]) for place in range(len(texts))]
    assert int(run.visits_in(0).min()) == 1 and set(run.micro_batches(0)) == {2}
    # The first step of the second epoch, of which the weights are kept: a batch of each process.
    model = bert(dropout=0.0)
    model.load_state_dict(run.model(0))
    for index in run.steps(1)[0]:
        batch = padded([texts[place] for place in index.tolist()])
        batch.pop("labels")
        with torch.no_grad():
            torch.testing.assert_close(run.shard(1).read("logits")[index], model(**batch).logits, rtol=1e-5, atol=1e-6)
    if part is by_callback:
        return
    # One process takes it again to the bit. A Trainer that tells its model the number of labels multiplies the loss by the number of processes, and BERT
    # does not heed the number, so that the gradient is twice the mean over two processes, which AdamW hides until it is clipped.
    trainer = trainer_of(tmp_path)
    loop = assay.huggingface.loop_of(trainer)
    assert loop.accumulate == (1 if trainer.model_accepts_loss_kwargs else None)
    held = padded(Texts(8, 40).items)
    targets = {"validation": lambda model: F.cross_entropy(model(**held).logits, held["labels"])}
    (scores,) = assay.score(run, "sgd_influence", loop=loop, targets=targets, save=False).values()
    assert len(scores.ids) == 22 and bool((scores.values != 0).all())
    wrong = assay.huggingface.loop_of(trainer, accumulate=None if trainer.model_accepts_loss_kwargs else 1)
    with pytest.raises(Mismatch, match="2 processes took each step together"):
        assay.score(run, "sgd_influence", loop=wrong, targets=targets, save=False)
