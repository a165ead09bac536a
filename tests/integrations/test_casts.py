import contextlib

import pytest
import torch
import torch.nn.functional as F

import assay
from assay.core.errors import RunError
from golden import kept_runs


def looped(folder, casts):
    """A loop with another way to compute in each epoch."""
    net, optimizer, loader = kept_runs.parts()
    with assay.record(folder, net, optimizer, loader, seed=0) as recorder:
        for cast in casts:
            for x, y in recorder.epoch():
                with cast:
                    logits = net(x)
                optimizer.zero_grad()
                F.cross_entropy(logits.float(), y).backward()
                optimizer.step()
                recorder.batch(logits.float(), y)
    assert not net._forward_pre_hooks
    return assay.Run(folder)


def test_the_settings_of_each_epoch_are_noted(tmp_path):
    half = torch.autocast("cpu", torch.bfloat16)
    run = looped(tmp_path, [contextlib.nullcontext(), half, contextlib.nullcontext()])
    assert [run.autocast(epoch) for epoch in range(3)] == [{}, {"cpu": "bfloat16"}, {}]
    lines = (tmp_path / "commits.jsonl").read_text().splitlines()
    assert ["autocast" in line for line in lines] == [False, True, False]


def test_outside_of_the_model_it_does_not_count(tmp_path):
    net, optimizer, loader = kept_runs.parts()
    with assay.record(tmp_path, net, optimizer, loader, seed=0) as recorder:
        for x, y in recorder.epoch():
            logits = net(x)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.batch(logits, y)
    assert assay.Run(tmp_path).autocast(0) == {}


class Halved(torch.nn.Module):
    """Computes in bfloat16 inside its forward, and in float32 in eval mode."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            return self.inner(x).float()


def test_what_the_forward_sets_is_noted_and_no_hook_stays(tmp_path):
    net = Halved()
    optimizer, loader = torch.optim.SGD(net.parameters(), lr=0.1), kept_runs.parts()[2]
    hooks = []
    with assay.record(tmp_path, net, optimizer, loader, seed=0) as recorder:
        for x, y in recorder.epoch():
            net.eval()(x), net.train()
            logits = net(x)
            hooks.append(len(net.inner._forward_pre_hooks))
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    assert assay.Run(tmp_path).autocast(0) == {"cpu": "bfloat16"} and hooks == [0, 0, 0]
    assert not net._forward_pre_hooks and not net._forward_hooks


class Breaks(torch.nn.Module):
    """Holds a layer of TorchScript; its first forward ends in an error, which a hook of its own is told of."""

    def __init__(self):
        super().__init__()
        self.inner, self.told = torch.jit.script(torch.nn.Linear(3, 3)), []

    def forward(self, x):
        if not self.told:
            self.told.append(self.register_forward_hook(lambda *_: self.told.append("hook"), always_call=True))
            raise ValueError("mine")
        return self.inner(x)


def test_an_error_in_the_forward_and_layers_of_torchscript_are_the_users_own(tmp_path):
    net = Breaks()
    optimizer, loader = torch.optim.SGD(net.parameters(), lr=0.1), kept_runs.parts()[2]
    with assay.record(tmp_path, net, optimizer, loader, seed=0) as recorder:
        for number, (x, y) in enumerate(recorder.epoch()):
            if not number:
                with pytest.raises(ValueError, match="mine"):
                    net(x)
                assert net.told[1:] == ["hook"]
            logits = net(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            recorder.batch(logits, y)
    assert not net._forward_pre_hooks and len(net._forward_hooks) == 1


def test_an_epoch_that_was_left_leaves_no_hook(tmp_path):
    net, optimizer, loader = kept_runs.parts()
    with (
        pytest.warns(UserWarning, match="was left after 1 batches"),
        assay.record(tmp_path, net, optimizer, loader, seed=0) as recorder,
    ):
        for _ in recorder.epoch():
            break
    assert not net._forward_pre_hooks


def test_a_type_that_is_none_is_damage(tmp_path):
    run = looped(tmp_path, [torch.autocast("cpu", torch.bfloat16)])
    import zlib

    body = run.commits[0].line().rpartition("\t")[0].replace('"bfloat16"', '"int3"')
    (tmp_path / "commits.jsonl").write_text(f"{body}\t{zlib.crc32(body.encode()):08x}\n")
    with pytest.raises(RunError, match="autocast"):
        assay.Run(tmp_path)
