"""`assay inspect`: what a run's folder holds."""

import contextlib
from pathlib import Path

from .values import Switch


def inspect_(run: Path, /, *, check: Switch = False) -> None:
    """Show what a run holds and which methods it allows.

    Parameters
    ----------
    run
        Folder of the run.
    check
        Read every file and compare it with its checksum.
    """
    from ..experiments.plan import folds_of, models_asked
    from ..experiments.scorable import scorable
    from ..runs.run import Run
    from .console import say, show_table
    from .score import left_out

    opened = Run(run)
    header, about = opened.header, opened.header.about
    size = 0
    for path in opened.folder.rglob("*"):
        # A run that is being written loses its temporary files while we look.
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    seconds = sum((commit.seconds for commit in opened.commits), 0.0)
    models, asked = [opened, *opened.members], models_asked(opened)
    own = "the loop's own" if opened.passes is None else "your own"
    unequal = len({one.epochs for one in models}) > 1
    rows = [
        (
            ("epochs", f"{opened.epochs} committed, {sum(map(opened.step_count, range(opened.epochs))):,} steps, {seconds:.1f} s")
            if opened.passes is None
            else ("passes", f"{opened.epochs} committed, {seconds:.1f} s")
        ),
        (
            "examples",
            f"{len(opened.ids):,} in {opened.classes_in_words}"
            if opened.classes
            else f"{len(opened.ids):,}, {opened.classes_in_words}",
        ),
        (
            "pass",
            f"{header.view}; logits {'kept' if header.keep_logits else 'not kept'}, checkpoints {header.checkpoints}: {opened.checkpoints()}",
        ),
        ("data", about.get("data", own)),
        ("net", about.get("net", own)),
        ("seed", header.seed),
        (
            "made by",
            f"assay {header.code}, torch {header.torch}, {header.device}, {header.machine}, {header.threads} threads, {header.created}",
        ),
        ("dataset", opened.dataset),
        ("run", opened.fingerprint),
        ("on disk", f"{size / 1e6:.1f} MB"),
    ]
    if opened.selection:
        rows.insert(3, ("selected", opened.selection))
    if opened.smoothing:
        rows.insert(3, ("facts", opened.smoothing))
    if opened.passes is not None:
        rows.insert(3, ("made of", opened.passes.summary(opened.epochs, folds_of(opened))))
    for words in opened.elsewhere:
        rows.insert(7, ("went on", words))
    if asked > 1 or len(models) > 1:
        came = f", of {', '.join(str(one.epochs) for one in models)} epochs" if unequal else ""
        rows.insert(1, ("models", f"{len(models)} of {asked}{came}"))
    for noun, suffix in (
        ("scores", "parquet"),
        ("decisions", "parquet"),
        ("verdicts", "json"),
        ("curves", "json"),
        ("lds", "json"),
        ("explanations", "json"),
    ):
        names = sorted(path.stem for path in (opened.folder / noun).glob(f"*.{suffix}"))
        rows.append((noun, ", ".join(names) or "none"))
    attributions = sorted(path.parent.name for path in (opened.folder / "attributions").glob("*/attribution.json"))
    rows.append(("attributions", ", ".join(attributions) or "none"))
    able, unable = scorable(opened)
    whole = not opened.epochs or (len(models) == asked and not unequal)
    rows.append(
        ("allows", ", ".join(able) if whole else "nothing before all models are there; go on with `assay record --resume`")
    )
    show_table(str(run), ("", ""), rows)
    for words in left_out(unable):
        say(f"not {words}")
    if check:
        say(f"{opened.check()} tensors agree with their checksums.")
