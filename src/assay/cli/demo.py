"""`assay demo`: the whole workflow on real digits, in under a minute."""

from pathlib import Path

from .values import Whole


def demo_(*, out: Path = Path("demo"), seeds: Whole = 5) -> None:
    """Run the whole workflow on real digits, in under a minute.

    A tenth of the training labels of scikit-learn's digits is flipped, with the truth kept aside; a small net trains with the
    recorder on; every method scores every example; the most suspect tenth is dropped; retraining over seeds tells whether that
    was right; report.html shows it all.
    Started again, it goes on where it was stopped.

    Parameters
    ----------
    out
        Folder of the run and of report.html.
    seeds
        How many seeds to retrain over.
    """
    import time

    from ..cluster.executors import executor
    from ..experiments.choose import choose
    from ..experiments.execution import Execution
    from ..experiments.plan import Plan
    from ..experiments.record import record
    from ..experiments.report import report
    from ..experiments.report_data import ReportOptions
    from ..experiments.scorable import scorable
    from ..experiments.score import score
    from ..experiments.verify import verify
    from ..experiments.wrong_labels import count_wrong
    from ..runs.artefacts import save_decision, save_verdict
    from .console import say, showing_progress
    from .verify import show_verdict

    began = time.perf_counter()
    plan = Plan.make(
        {
            "data": "digits",
            "net": "mlp",
            "seed": 0,
            "plant": {"kind": "uniform", "rate": 0.1},
            "recipe": {"epochs": 20, "lr": 0.1, "batch": 64, "momentum": 0.9, "weight_decay": 5e-4},
            "record": {"live": ["tdds"]},
        }
    )
    with showing_progress() as progress:
        run = record(plan, out, resume=True, execution=Execution(progress=progress))
        names, _ = scorable(run)
        first = "aum"
        table = score(run, [first, *(name for name in names if name != first)], save=True)
        progress.advance("score", len(table), len(table), f"{len(table)} methods")
        decision = choose(table[first], "top_k", keep=0.9)
        save_decision(decision, run.paths.decision("drop-worst-tenth"))
        with executor("processes") as pool:
            verdict = verify(decision, run=run, scores=table, seeds=seeds, save=True, execution=Execution(pool, progress))
        save_verdict(verdict, run.paths.verdict("drop-worst-tenth"))
        options = ReportOptions(title="Digits with a tenth of the labels flipped")
        path = report(run, table, decision=decision, verdict=verdict, options=options)
        progress.advance("report", 1, 1, f"{path.stat().st_size / 1e6:.1f} MB")
    say(count_wrong(run).sentence)
    show_verdict(verdict)
    say(f"{path.resolve()} shows it all ({time.perf_counter() - began:.0f} s).")
