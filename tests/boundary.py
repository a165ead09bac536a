"""Calls every public name with arguments of wrong kinds and prints what came back that is no error of assay's.

Runs in a process of its own, because the type checks of the tests stand before the house's own. Argument: an empty folder.
"""

import dataclasses
import inspect
import json
import os
import random
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import assay
import plain_loop
from assay.core.errors import AssayError, TrialFailed
from assay.core.probe import ProbedMethod
from assay.experiments.progress import Progress
from assay.methods import parse

warnings.simplefilter("error", RuntimeWarning)

WRONG = {
    "None": None,
    "a number": 7,
    "a fraction": 0.5,
    "not a number": float("nan"),
    "a text": "nonsense",
    "a NUL": "a\0b",
    "a long name": "n" * 300,
    "bytes": b"raw",
    "a list": [1, "x"],
    "an empty list": [],
    "a mapping": {"x": 1},
    "an empty mapping": {},
    "an object": object(),
    "a class": dict,
    "a function": lambda *given: 1 / 0,
    "a tensor": torch.zeros(2, 3),
    "a scalar": torch.tensor(1.5),
    "an array": np.array(["x", "y"]),
    "complex": torch.zeros(3, dtype=torch.complex64),
    "a pair": (1, 2),
    "True": True,
}

MODULES = {"huggingface", "lightning", "skorch"}
"""Names that are no functions."""


class Trainer:
    """As much of a Hugging Face Trainer as `attach` looks at before training."""

    train = get_train_dataloader = training_step = compute_loss = add_callback = lambda self, *given: None
    model, train_dataset, label_names, compute_loss_func = None, [1, 2], ["labels"], None
    callback_handler = types.SimpleNamespace(callbacks=[])
    args = types.SimpleNamespace(
        n_gpu=0, world_size=1, deepspeed=None, fsdp=None, auto_find_batch_size=False, dataloader_drop_last=False
    )


SLOW = {
    f"study_{name}"
    for name in ("scaling", "difficulty", "cleansing", "fidelity", "complexity_gap", "liveval", "coresets", "pruning")
}
"""A wrong value that happens to be right would start a study."""


def good(folder):
    """Calls that work, by name: positional and named arguments."""
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    model, data = torch.nn.Linear(3, 3), TensorDataset(x, y)
    optimizer, loader = torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data, batch_size=4)
    with assay.record(folder / "own", model, optimizer, loader) as recorder:
        for _ in range(2):
            plain_loop.epoch(recorder, model, optimizer)
    run = assay.Run(folder / "own")
    loop = assay.Loop(model, optimizer, loader)
    held = {"validation": (x[:5] + 1, y[:5]), "test": (x[5:9] + 2, y[5:9])}
    table = assay.score(run, ["aum", "loss"])
    aum = table["aum"]
    decision = assay.choose(aum, "top_k", keep=0.5)
    by_query = assay.attribute(run, "tracin", loop=loop, targets=held)
    verdict = assay.verify(decision, run=run, retrain=lambda ids, labels, weights, seed: 0.5 + seed / 100, seeds=3)
    curve = assay.cleanse(run, aum, grid=assay.RemovalGrid(counts=[1], draws=1), loop=loop, targets=held)
    explained = assay.explain(run, run.ids.values[0].item(), loop=loop, k=1)
    agreed = assay.lds(run, "tracin", grid=assay.LeaveOutGrid(4, count=1, queries=1), loop=loop, targets=held)
    plan = assay.Plan.make({"data": "digits:test=1700", "net": "logistic", "recipe": {"epochs": 1}})
    evidence = assay.gather(run)
    shown = {"decision": decision, "verdict": verdict, "curves": [curve], "examples": None}
    marked = folder / "review.json"
    said = {"assay": "review", "schema": 1, "dataset": run.dataset, "decision": decision.fingerprint, "title": decision.title}
    marked.write_text(json.dumps({**said, "marks": [{"id": str(run.ids[0]), "mark": "right"}]}))
    edited, logits_of = folder / "edited.csv", torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    assay.result_table(run, table, decision).to_csv(edited)
    joint, alike = assay.confident_joint(run), assay.duplicates(run, loop=loop, within=2.0)
    counted, compared = assay.count_wrong(run), assay.compare(run, table, truth=(run.ids, run.labels.roll(1)))
    found = assay.Probe("uniform", 3, 3, 12, 0, (ProbedMethod("aum", 0.9, 0.8, 0.95, 0.5, 1.0),))
    saved = {
        "probe": found,
        "scores": aum,
        "decision": decision,
        "verdict": verdict,
        "curve": curve,
        "lds": agreed,
        "explanation": explained,
    }
    calls = {
        "record": ((folder / "more", model, optimizer, loader), {}),
        "attach": ((Trainer(), folder / "attached"), {}),
        "Loop": ((model, optimizer, loader), {}),
        "Recording": ((), {"view": "train", "keep_logits": False, "mean_probs": None, "checkpoints": "last", "live": ()}),
        "DataSpec": (
            (),
            {"ids": None, "class_names": None, "losses": torch.nn.functional.mse_loss, "forward": None, "clean": None},
        ),
        "LiveSelection": (("infobatch", 3), {}),
        "LiveMethods": (([parse("dual")],), {}),
        "ReplayConfig": ((), {"schedule": "sqrt", "memory": None, "tolerance": 0.0}),
        "score": ((run, "aum"), {}),
        "score_separately": ((run, "aum"), {}),
        "attribute": ((run, "tracin"), {"loop": loop, "targets": held}),
        "load_attribution": ((run.paths.attribution("tracin"),), {}),
        "Attribution": (tuple(getattr(by_query, field.name) for field in dataclasses.fields(by_query)), {}),
        "count_wrong": ((run,), {}),
        "WrongCount": (tuple(getattr(counted, field.name) for field in dataclasses.fields(counted)), {}),
        "compare": ((run, table), {"budget": 3, "truth": (run.ids, run.labels)}),
        "MethodComparison": (tuple(getattr(compared, field.name) for field in dataclasses.fields(compared)), {}),
        "confident_joint": ((run,), {}),
        "ConfidentJoint": (tuple(getattr(joint, field.name) for field in dataclasses.fields(joint)), {}),
        "duplicates": ((run, "inputs"), {"within": 0.1, "metric": "cosine", "loop": loop, "inputs": None}),
        "DuplicateGroups": (tuple(getattr(alike, field.name) for field in dataclasses.fields(alike)), {}),
        "combine": ((table,), {}),
        # Six flipped labels are too few, so that nothing is trained.
        "probe": ((run, "loss"), {"flips": assay.Flips(0.5), "record": lambda labels, folder: None}),
        "Flips": ((), {"rate": 0.1, "kind": "uniform", "seed": 0}),
        "Probe": (tuple(getattr(found, field.name) for field in dataclasses.fields(found)), {}),
        "choose": ((aum, "top_k"), {"keep": 0.5}),
        "verify": ((decision,), {"run": run, "retrain": lambda ids, labels, weights, seed: 0.5, "seeds": 3}),
        "seeds_needed": ((decision, 0.5), {"run": run, "own": True}),
        "cleanse": ((run, aum), {"grid": assay.RemovalGrid([1], draws=1), "loop": loop, "targets": held}),
        "RemovalGrid": ((), {"counts": [1], "retrain": "last", "draws": 1, "chosen_by": "loss"}),
        "explain": ((run, run.ids.values[0].item()), {"loop": loop, "k": 1}),
        "Explanation": (tuple(getattr(explained, field.name) for field in dataclasses.fields(explained)), {}),
        "lds": ((run, "tracin"), {"grid": assay.LeaveOutGrid(4, count=1, queries=1), "loop": loop, "targets": held}),
        "LeaveOutGrid": ((), {"subsets": 4, "share": 0.1, "count": 1, "queries": 1, "form": "weight"}),
        "LDS": (tuple(getattr(agreed, field.name) for field in dataclasses.fields(agreed)), {}),
        "Execution": ((), {"pool": None, "progress": Progress()}),
        "Seeds": ((3, 1, 0.5), {}),
        "curve_for": ((run, aum), {}),
        "estimate_games": ((run, "data_oob:bags=2"), {"loop": loop, "targets": held}),
        "estimate_recording": ((plan,), {}),
        "estimate_retraining": ((run,), {"seeds": 2, "draws": 1, "grid": assay.LeaveOutGrid(4, count=1, queries=1)}),
        "estimate_study": (
            (assay.study_coresets, {"recipe": {"epochs": 1, "batch": 512}}),
            {"scale": "tiny", "grid": assay.CoresetsGrid("aum", "top_k", seeds=1), "threads": 1},
        ),
        "study_scaling": ((folder / "study",), {"scale": "tiny"}),
        "study_difficulty": ((folder / "study",), {"scale": "tiny"}),
        "study_cleansing": ((folder / "study",), {"scale": "tiny"}),
        "CleansingGrid": ((), {"methods": ["aum"], "remove": [0, 10], "trials": 2, "retrain": "last", "chosen_by": "loss"}),
        "study_fidelity": ((folder / "study",), {"scale": "tiny"}),
        "study_complexity_gap": ((folder / "study",), {"scale": "tiny"}),
        "study_liveval": ((folder / "study",), {"scale": "tiny"}),
        "study_coresets": ((folder / "study",), {"scale": "tiny"}),
        "study_pruning": ((folder / "study",), {"scale": "tiny"}),
        "CoresetsGrid": (
            (),
            {"methods": ["aum"], "selectors": ["top_k"], "fractions": [0.5], "seeds": 2, "budget": "steps", "batches": {0.5: 8}},
        ),
        "PruningGrid": (
            (),
            {"fractions": [0.5], "seeds": 2, "early_epochs": 5, "window": 3, "c_d": 4.0, "cutoff": 0.1, "corrupt": 0.1},
        ),
        "ComplexityGapGrid": ((), {"metrics": ["aum"], "fractions": [0.5], "seeds": 2, "rate": 0.1, "rep_num": 2}),
        "LiveValGrid": (
            (),
            {"modes": ["flip"], "methods": ["oti"], "num_flip": [4], "num_scores": 9, "delta_min": [1], "eps_max": [0.1]},
        ),
        "FidelityGrid": ((), {"nets": ["dnn"], "methods": ["aum"], "seeds": 1, "examples": 30}),
        "ScalingGrid": ((), {"metrics": ["vog"], "seeds": 2, "angles": []}),
        "DifficultyGrid": ((), {"metrics": ["vog"], "seeds": 2, "pd_layers": 3}),
        "report_data": ((run, table), shown),
        "report": ((run, table, folder / "page.html"), shown),
        "ReportOptions": (
            (),
            {
                "truth": None,
                "title": "",
                "most": 3,
                "held_out": {0: 0.5},
            },
        ),
        "review": ((run, marked), {"decision": decision, "scores": aum, "rest": "keep"}),
        "examples_from_arrays": ((x, y), {}),
        "examples_from_dataset": ((data,), {}),
        "Plan": ((), {"data": "digits", "net": "mlp", "seed": 0, "models": 1, "record": {}, "recipe": {}}),
        "Run": ((folder / "own",), {}),
        "Recorder": ((folder / "raw", assay.Ids([1, 2])), {}),
        "gather": ((run,), {}),
        "gather_logits": ((assay.Ids([1, 2]), torch.zeros(3, 2, 2), torch.tensor([0, 1])), {}),
        "gather_inputs": ((assay.Ids([1, 2]), torch.zeros(2, 2), torch.tensor([0, 1])), {}),
        "untrained": ((plan, folder / "untrained"), {}),
        "Ids": (([1, 2],), {}),
        "Scores": ((aum.ids, aum.values, "mine", {}, "mine", aum.direction, "unit"), {}),
        "ScoreTable": (([aum],), {}),
        "Decision": (
            (decision.ids, decision.actions, decision.labels, decision.weights, decision.reasons, "mine", {}, "mine"),
            {},
        ),
        "Verdict": ((verdict.decision, verdict.outcomes, verdict.comparisons), {}),
        "Curve": ((curve.scores, curve.retrained, curve.removals, curve.best, curve.chosen_by), {}),
        "ReplayedFacts": ((), {"checkpoints": None, "models": (), "steps": None, "features": None}),
        "Evidence": ((run.ids, 3), {"labels": run.labels, "epochs": None, "mean_probs": None, "inputs": x}),
        "load_study": ((folder / "study.json",), {}),
        "from_probs": (
            (folder / "probs", logits_of.softmax(1), y, "held_out"),
            {"ids": None, "class_names": None, "repeats": False},
        ),
        "from_logits": ((folder / "logits", logits_of, y, "held_out"), {"ids": None, "class_names": None, "repeats": False}),
        "from_checkpoints": ((folder / "old", model, loader, [model.state_dict()]), {"rates": None}),
        "token_losses": (
            (torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)),
            {"ignore_index": -100, "reduction": "mean"},
        ),
        "Table": (("mine", {"a": np.arange(3)}), {"notes": ()}),
        "result_table": ((run, table), {"decision": decision}),
        "issue_table": ((run, aum), {"decision": decision}),
        "fiftyone_fields": ((run, table), {"decision": decision}),
        "label_studio_tasks": ((run, aum), {"decision": decision, "items": None, "most": 2}),
        "dataset_card": ((run, table), {"decisions": [decision]}),
        "import_decision": ((run, edited, "csv"), {}),
    }
    del evidence
    for noun, made in saved.items():
        place = folder / f"{noun}.saved"
        calls[f"save_{noun}"] = ((made, place), {})
        calls[f"load_{noun}"] = ((place,), {})
        getattr(assay, f"save_{noun}")(made, place)
    return calls


def tried(name, function, args, given, where):
    """What a call does that it must not do; empty if all is well."""
    before = random.getstate(), torch.get_rng_state().numpy().tobytes()
    said = called(name, function, args, given, where)
    drew = (random.getstate(), torch.get_rng_state().numpy().tobytes()) != before
    return said or (f"{name}, {where}: a global generator is not as it was" if drew else "")


def called(name, function, args, given, where):
    """What comes back that is no error of assay's."""
    try:
        made = function(*args, **given)
        if hasattr(made, "__exit__"):
            made.__exit__(None, None, None)
        elif hasattr(made, "close"):
            made.close()
    except AssayError as error:
        words = str(error)
        # The tail of a log says what a user's own function raised.
        return (
            ""
            if words and ("\n" not in words or isinstance(error, TrialFailed))
            else f"{name}, {where}: no single sentence: {words!r}"
        )
    except Exception as error:
        return f"{name}, {where}: {type(error).__name__}: {' '.join(str(error).split())[:150]}"
    return ""


def main(folder):
    # A call that takes a text for a path may write there.
    folder = folder.resolve()
    os.chdir(folder)
    calls, total = good(folder), 0
    untried = set(assay.__all__) - set(calls) - MODULES - {"__version__", "AssayError", "Direction", "Need"}
    said = [f"not tried: {name}" for name in sorted(untried)]
    for name, (args, given) in calls.items():
        function = getattr(assay, name)
        parameters = list(inspect.signature(function).parameters.values())
        # The fields of values are given by name too.
        named = dict.fromkeys([*(one.name for one in parameters if one.kind is one.KEYWORD_ONLY), *given])
        for what, value in WRONG.items():
            for place in range(len(args)):
                total += 1
                changed = (*args[:place], value, *args[place + 1 :])
                said.append(tried(name, function, changed, given, f"argument {place} {what}"))
            for option in named:
                # Right values, by which a whole study would start.
                if (name in SLOW and what in ("None", "True", "a number")) or (
                    name in SLOW and option in ("execution", "per_class")
                ):
                    continue
                total += 1
                said.append(tried(name, function, args, {**given, option: value}, f"{option}= {what}"))
    print("\n".join(filter(None, said)))
    print(f"{total} calls")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
