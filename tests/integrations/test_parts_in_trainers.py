"""Models that accelerate, Hugging Face's Trainer and Lightning keep in parts in two processes (`fully_shard`): one run, equal to that of whole models."""

import contextlib
import functools
import gc
import os

import pytest
import torch
import torch.nn.functional as F
from packaging.version import Version
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

import assay
from assay.core.errors import UsageError
from assay.integrations.sharded import sharded
from assay.runs.recording import Recording
from assay.runs.run import Run
from integrations.test_processes import data, net, together

accelerate = pytest.importorskip("accelerate")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
RECORDING = Recording(live=["aum"], keep_logits=True, checkpoints="every")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""Sums over parts are rounded otherwise than over whole tensors, and AdamW's first steps are as long whatever a gradient's size."""
LOSES_OPTIMIZER = Version(accelerate.__version__) < Version("1.13")


def parts_on_cpu():
    """Let accelerate keep parts on the CPU: it looks for an accelerator before it heeds a plugin, and what it does then works without one."""
    kind = accelerate.state.AcceleratorState
    begin = kind.__init__

    def begun(self, *args, fsdp_plugin=None, **kwargs):
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = accelerate.state.DistributedType.FSDP, fsdp_plugin

    kind.__init__ = begun


def by_accelerate(rank, folder):
    """Several trainings in a row: starting a process takes longer."""
    parts_on_cpu()
    settings = {"accumulate": 1, "checkpointing": False}
    for name, more in {
        "plain": {},
        "accumulated": {"accumulate": 2},
        "checkpointing": {"checkpointing": True},
        "efficient": {"efficient": True},
    }.items():
        one_by_accelerate(f"{folder}/{name}", {**settings, **more, "epochs": 1})
        one_by_accelerate(f"{folder}/{name}", {**settings, **more, "resume": True})
    one_by_accelerate(f"{folder}/early", {**settings, "before": True})
    with pytest.raises(
        UsageError, match=r"is kept in parts now, which have none; resume by calling assay.record after fully_shard"
    ):
        one_by_accelerate(f"{folder}/early", {**settings, "before": True, "resume": True, "epochs": 3})
    for name, accumulate in {"whole": 1, "whole accumulated": 2}.items():
        one_by_accelerate(f"{folder}/{name}", {**settings, "accumulate": accumulate, "parts": False})


def one_by_accelerate(folder, says):
    says = {"epochs": 2, "resume": False, "parts": True, "before": False, **says}
    accelerate.state.AcceleratorState._reset_state(True)
    # A plugin asks for itself, in what comes after it too.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    plugin = None
    if says["parts"]:
        plugin = accelerate.FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="size_based_wrap",
            min_num_params=1,
            cpu_ram_efficient_loading=says.get("efficient", False),
            activation_checkpointing=says["checkpointing"],
        )
    accelerator = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin, gradient_accumulation_steps=says["accumulate"])
    made = net(norm=False)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1)
    loader = accelerator.prepare(DataLoader(data(21), 4, shuffle=True))
    recorded = functools.partial(assay.record, folder, loader=loader, recording=RECORDING, seed=3, resume=says["resume"])
    early = recorded(made, optimizer) if says["before"] else None
    model, optimizer = accelerator.prepare(made, optimizer)
    with early or recorded(model, optimizer) as recorder:
        for _ in range(recorder.epochs, says["epochs"]):
            for x, y in recorder.epoch():
                with accelerator.accumulate(model):
                    logits = model(x)
                    accelerator.backward(F.cross_entropy(logits, y))
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                recorder.batch(logits, y)
    del model, made, optimizer, recorder
    gc.collect()


def same_runs(folder, other):
    run, whole = Run(folder), Run(other)
    assert run.check() and run.processes == whole.processes == 2 and run.sharded == "fully_shard" and not whole.sharded
    assert run.epochs == whole.epochs == 2 and run.model(-1).keys() == whole.model(-1).keys()
    for epoch in range(2):
        assert [batch.tolist() for batch in run.order(epoch)] == [batch.tolist() for batch in whole.order(epoch)]
        torch.testing.assert_close(run.shard(epoch).read("logits"), whole.shard(epoch).read("logits"), **CLOSE)
        assert run.micro_batches(epoch) == whole.micro_batches(epoch) and torch.equal(
            run.visits_in(epoch), whole.visits_in(epoch)
        )
    for epoch in (-1, 0, 1):
        for name, value in whole.model(epoch).items():
            torch.testing.assert_close(run.model(epoch)[name], value, **CLOSE)
    return run


def test_accelerate_keeps_parts(tmp_path):
    together(by_accelerate, str(tmp_path))
    for name in ("plain", "accumulated", "checkpointing", "efficient", "early"):
        print(name)
        same_runs(tmp_path / name, tmp_path / ("whole accumulated" if name == "accumulated" else "whole"))


def by_trainer(rank, folder):
    from integrations.test_huggingface import Stops
    from integrations.test_trainers_together import trainer_of

    parts_on_cpu()
    # The Trainer's whole checkpoints hold tensors that safetensors cannot write on the CPU.
    layers = {"transformer_layer_cls_to_wrap": ["BertLayer"], "state_dict_type": "SHARDED_STATE_DICT"}
    parts = {"fsdp": "full_shard auto_wrap", "fsdp_config": {"version": 2, "sync_module_states": False, **layers}}
    # What transformers 4 leaves to accelerate.
    os.environ |= {"FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}

    def trains(name, call=assay.attach, resume=None, stop=None, **settings):
        accelerate.state.AcceleratorState._reset_state(True)
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        saves = {"save_strategy": "epoch", "save_only_model": False, "ddp_backend": "gloo", "max_grad_norm": 0.5}
        place = folder / name
        if call is assay.huggingface.Recorder:
            trainer = trainer_of(place, **saves, **settings, callbacks=[call(place / "run", RECORDING, seed=3)])
        else:
            trainer = trainer_of(place, **saves, **settings)
            call(trainer, place / "run", RECORDING, seed=3)
        if stop:
            trainer.add_callback(Stops(stop))
        trainer.train(resume_from_checkpoint=resume)
        del trainer
        gc.collect()

    trains("attached", **parts)
    trains("called", assay.huggingface.Recorder, **parts)
    trains("whole")
    trains("accumulated", gradient_accumulation_steps=2, **parts)
    trains("whole accumulated", gradient_accumulation_steps=2)
    trains("resumed", stop=3, **parts)
    # Before 1.13 accelerate loads an optimizer in parts without its state, and says nothing.
    loses = pytest.warns(UserWarning, match="goes on with another state of the optimizer than")
    with loses if rank == 0 and LOSES_OPTIMIZER else contextlib.nullcontext():
        trains("resumed", resume=True, **parts)
    os.environ |= {"FSDP_VERSION": "1", "FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"}
    with pytest.raises(
        UsageError,
        match=r"FSDP in its first version, .*; set (fsdp_config=\{'version': 2\}|FSDP_VERSION=2 in the environment), or",
    ):
        trains("refused", **{**parts, "fsdp_config": {"version": 1, "sync_module_states": False, **layers}})


def test_huggingfaces_trainer_keeps_parts(tmp_path):
    pytest.importorskip("transformers")
    together(by_trainer, tmp_path)
    for name in ("attached", "called", "accumulated", *([] if LOSES_OPTIMIZER else ["resumed"])):
        same_runs(tmp_path / name / "run", tmp_path / ("whole accumulated" if name == "accumulated" else "whole") / "run")
    assert not (tmp_path / "refused" / "run").exists()


def by_lightning(rank, folder):
    import lightning.pytorch as lightning
    from lightning.pytorch.strategies import ModelParallelStrategy

    from integrations.test_lightning import trainer_of
    from integrations.test_lightning_together import Plain, loader_of

    class Parts(Plain):
        def configure_model(self):
            if not sharded(self.net):
                fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    # As torchrun says that it started the processes.
    os.environ["TORCHELASTIC_RUN_ID"] = "test"

    def trains(name, module, resume=None, epochs=2, data=2, tensor=1, **settings):
        saves = lightning.callbacks.ModelCheckpoint(folder / f"{name} of Lightning", save_last=True)
        recorder = assay.lightning.Recorder(folder / name, RECORDING, seed=3)
        strategy = ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor) if module is Parts else "ddp"
        more = {"strategy": strategy, "devices": 2, "max_epochs": epochs, "enable_checkpointing": True, **settings}
        trainer = trainer_of(folder, [saves, recorder], **more)
        trainer.fit(module(), loader_of("shuffled"), ckpt_path=resume)
        del trainer, recorder
        gc.collect()

    trains("whole", Plain)
    trains("parts", Parts, epochs=1)
    trains("parts", Parts, resume=str(folder / "parts of Lightning" / "last.ckpt"))
    trains("accumulated", Parts, accumulate_grad_batches=2)
    trains("whole accumulated", Plain, accumulate_grad_batches=2)
    with pytest.raises(
        UsageError, match=r"tensor_parallel_size=2 .* give ModelParallelStrategy\(data_parallel_size=2, tensor_parallel_size=1\)"
    ):
        trains("refused", Parts, data=1, tensor=2)


def test_lightnings_model_parallel_strategy_keeps_parts(tmp_path):
    pytest.importorskip("lightning.pytorch")
    together(by_lightning, tmp_path)
    for name, other in {"parts": "whole", "accumulated": "whole accumulated"}.items():
        same_runs(tmp_path / name, tmp_path / other)
    assert not (tmp_path / "refused").exists()
