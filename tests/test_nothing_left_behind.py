"""Whatever a public call does to the process, it undoes: random state, threads, determinism, hooks, modes; refused calls too."""

import contextlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import assay
import boundary
from assay.core.errors import AssayError
from assay.experiments.record import record
from experiments import small

STUDIES = {
    f"study_{name}"
    for name in ("scaling", "difficulty", "cleansing", "fidelity", "complexity_gap", "liveval", "coresets", "pruning")
}
NOT_CALLED = STUDIES | {"load_study", "curve_for"}


def state(*modules_and_optimizers):
    """Everything of this process that a user's own code would notice."""
    algorithm, keys, *rest = np.random.get_state()
    found = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (algorithm, keys.tobytes(), *rest),
        # Python's own generator is watched in boundary.py: the run-time type checker of the tests draws from it.
        "threads": torch.get_num_threads(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
        "matmul": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "mkldnn": torch.backends.mkldnn.enabled,
        "default type": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "warnings": len(warnings.filters),
    }
    for place, one in enumerate(modules_and_optimizers):
        for name, held in vars(one).items():
            if "hooks" in name:
                found[f"{place} {name}"] = len(held)
        if isinstance(one, torch.nn.Module):
            found[f"{place} mode"] = one.training
            found[f"{place} values"] = [value.numpy().tobytes() for value in one.state_dict().values()]
            found[f"{place} gradients"] = [p.grad is None or p.grad.numpy().tobytes() for p in one.parameters()]
    return found


def differences(before, after):
    return [name for name in before if before[name] != after[name]]


def tried(function, args, given):
    with contextlib.suppress(AssayError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = function(*args, **given)
        if hasattr(made, "__exit__"):
            made.__exit__(None, None, None)
        elif isinstance(made, assay.Recorder):
            made.close()


def test_calls_on_a_loop_of_ones_own_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = boundary.good(tmp_path)
    (_, model, optimizer, _), _ = calls["record"]
    left = {}
    for name, (args, given) in calls.items():
        if name in NOT_CALLED:
            continue
        function = getattr(assay, name)
        refused = [((object(), *args[1:]), given)] if args else []
        refused += [(args, {**given, option: object()}) for option in ("loop", "pool", "truth", "seed", "losses", "progress")]
        for how in [(args, given), *refused]:
            before = state(model, optimizer)
            with contextlib.suppress(TypeError):
                tried(function, *how)
            if differs := differences(before, state(model, optimizer)):
                left[name] = differs
    assert left == {}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small.recorded(tmp_path_factory.mktemp("left") / "run", validation=0.2, recipe={"epochs": 2})


def test_calls_on_a_planned_run_leave_nothing_behind(run, tmp_path):
    aum = assay.score(run, "aum")["aum"]
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(2) as pool:
            for what, call in {
                "record": lambda: record(small.plan(recipe={"epochs": 1}), tmp_path / "again"),
                "record refused": lambda: record(small.plan(recipe={"epochs": 1, "crop": 40}), tmp_path / "crop"),
                "score": lambda: assay.score(
                    run, ["grand", "oti", "vog", "sgd_influence", "prediction_depth", "cg_score:repeats=1"]
                ),
                "score refused": lambda: assay.score(run, "sgd_influence:target=class=none"),
                "verify": lambda: assay.verify(
                    assay.choose(aum, "top_k", keep=0.9), run=run, seeds=3, execution=assay.Execution(pool=pool)
                ),
                "cleanse": lambda: assay.cleanse(
                    run, aum, grid=assay.RemovalGrid(counts=[3], draws=2), execution=assay.Execution(pool=pool)
                ),
                "report": lambda: assay.report(run, {"aum": aum}, tmp_path / "page.html"),
                "untrained": lambda: assay.untrained(small.plan(), tmp_path / "untrained"),
            }.items():
                before = state()
                tried(call, (), {})
                assert differences(before, state()) == [], what
    finally:
        torch.set_num_threads(1)
