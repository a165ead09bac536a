"""The summary at the top of the page: what to do next, whom it concerns and how sure that is, for a reader who knows none of our words."""

import dataclasses
from collections.abc import Sequence

from ..core.decision import Action, Decision
from ..core.report_data import ClassCounts, LearningCurve
from ..core.scores import Scores
from ..core.trial import ALL, FEWEST, RANDOM, Cleaning, Comparison, Verdict
from ..core.wrong_labels import WrongCount
from ..runs.run import Run
from .plan import has_plan, tests_apart
from .quality import HELD_OUT

NEXT, WHOM, SURE = "What to do next", "What it touches", "How sure this is"
MARKED = 50
"""Marks that are asked for where a decision changes more."""


@dataclasses.dataclass(frozen=True)
class Known:
    """What the summary is made of: as `ReportData` has it."""

    run: Run
    scores: Sequence[Scores]
    decision: Decision | None
    verdict: Verdict | None
    cleaning: Cleaning | None
    learning: Sequence[LearningCurve]
    by_class: ClassCounts | None
    counted: WrongCount | None = None


def summary_of(known: Known) -> tuple[tuple[str, str], ...]:
    """Three headings with a text each; none where there is neither score nor decision."""
    if not known.scores and known.decision is None:
        return ()
    return (NEXT, _next(known)), (WHOM, _whom(known)), (SURE, _sure(known))


def _against_all(verdict: Verdict | None) -> Comparison | None:
    if verdict is None:
        return None
    return next((one for one in verdict.comparisons if one.baseline == ALL), next(iter(verdict.comparisons), None))


def _prunes(known: Known) -> bool:
    """Whether the decision makes the training set smaller, rather than cleaning it: it has a budget, gives no new labels, and leaves out more than half, or others than the
    most suspect by the score that it chose by.
    """
    decision = known.decision
    if decision is None or "keep" not in decision.options or bool((decision.actions == Action.RELABEL).any()):
        return False
    dropped = decision.weights == 0
    if not bool(dropped.any()):
        return False
    chosen_by = [one for one in known.scores if decision.title.endswith(f" by {one.title}") and one.direction.ranks_suspects]
    if not chosen_by or 2 * int(dropped.sum()) > len(decision):
        return True
    # Examples without a value are in no score, and stay.
    suspicion, valued = chosen_by[0].suspicion(), dropped[decision.ids.positions(chosen_by[0].ids, decision.title)]
    return not bool(suspicion[valued].min() >= suspicion[~valued].max())


def _smaller(known: Known, decision: Decision) -> str:
    """What to do with a decision that makes the training set smaller."""
    kept = int((decision.weights != 0).sum())
    proposal = f"The proposal is to train on {kept:,} of {len(decision):,} training examples"
    others = int((decision.actions == Action.WEIGHT).sum())
    proposal += f", {others:,} of them with another weight." if others else "."
    verdict, found = known.verdict, _against_all(known.verdict)
    if verdict is None or found is None:
        return f"{proposal} How good a model trained on these is, beside one trained on everything and on as many random ones, is what {_verifying(known.run)} finds out."
    if found.n < FEWEST:
        return f"{proposal} Verify with at least {FEWEST} trainings of each kind before following it: two cannot tell."
    told: dict[str, list[str]] = {}
    for baseline, words in ((ALL, "everything"), (RANDOM, "as many random ones")):
        one = next((one for one in verdict.comparisons if one.baseline == baseline), None)
        if one is not None:
            how = "not told apart from one" if not one.significant else "better than one" if one.effect > 0 else "worse than one"
            told.setdefault(how, []).append(f"on {words}")
    results = ", and ".join(f"{how} {' and '.join(trained)}" for how, trained in told.items())
    return f"{proposal} Trained again that way the model was {results}."


def _verifying(run: Run) -> str:
    """The command, or the function, that trains again."""
    return (
        f"`assay verify {run.folder}`"
        if has_plan(run) and tests_apart(run)
        else "`assay.verify(decision, retrain=...)` in Python"
    )


def _acts(decision: Decision) -> str:
    """What the decision does, in words: `drop 144 and relabel 3`."""
    verbs = {Action.DROP: "leave out", Action.RELABEL: "give another label to", Action.WEIGHT: "weigh anew"}
    parts = [f"{verb} {n:,}" for action, verb in verbs.items() if (n := int((decision.actions == action).sum()))]
    return " and ".join(parts)


def _next(known: Known) -> str:
    run, decision, found = known.run, known.decision, _against_all(known.verdict)
    if decision is None and run.task != "classes":
        return (
            f"Nothing is decided yet. Look at the first examples in the table below, which {known.scores[0].title} ranks first, and decide what becomes of "
            f"them: `assay choose {run.folder} {known.scores[0].title} --policy POLICY`."
        )
    if decision is None:
        first = known.scores[0]
        if not first.direction.ranks_suspects:
            return (
                "Nothing is decided yet. The examples below are ranked by how hard they are to learn, and hard is not wrong: use this order to choose a "
                f"smaller training set (`assay choose {run.folder} {first.title} --policy POLICY`), not to find wrong labels."
            )
        return (
            "Nothing is decided yet. Look at the first examples in the table below, whose labels are most likely wrong, mark each right or wrong, save "
            f"the marks, and hand the file to `assay review {run.folder} FILE`."
        )
    what = _acts(decision)
    if not what:
        return "Train on the data as they are: the decision changes nothing."
    if _prunes(known):
        return _smaller(known, decision)
    proposal = f"The proposal is to {what} of {len(decision):,} training examples."
    look = f"{proposal} Look at these first: they stand first in the table below"
    if run.task == "classes":
        look += f". Mark each right or wrong, save the marks, and hand the file to `assay review {run.folder} FILE`"
    if decision.policy == "review":
        look = f"{proposal} A reviewer has looked at the labels"
    if found is None:
        return f"{look}; whether the proposal makes the model better is what {_verifying(run)} finds out by training again."
    if found.n < FEWEST:
        return f"{proposal} Verify with at least {FEWEST} trainings of each kind before following it: two cannot tell."
    if not found.significant:
        return (
            f"{proposal} Training again has not shown that this helps or harms, so accuracy is no reason to follow it; mending labels that are wrong "
            f"is. {look.removeprefix(proposal).strip()}."
        )
    if found.effect > 0:
        return f"{proposal} Train on the data so changed: the model was better when trained again that way."
    return f"{proposal} Do not follow it: the model was worse when trained again that way."


def _whom(known: Known) -> str:
    decision, counts, names = known.decision, known.by_class, known.run.class_names
    total = len(known.run.ids)
    if counts is None:
        changed = "" if decision is None else f"{int(decision.touched.sum()):,} of "
        return f"{changed}{total:,} training examples, with {known.run.classes_in_words}{' are changed' if changed else ''}."
    if decision is None:
        words = f"{total:,} training examples of {len(names):,} classes."
        if counts.against is not None:
            against = int(counts.against.sum())
            words += f" For {against:,} of them ({_percent(against, total)}) the recorded model predicts another class than the given one."
        return words
    assert counts.dropped is not None and counts.relabelled is not None and counts.weighted is not None
    hit = counts.dropped + counts.relabelled + counts.weighted
    touched = int(hit.sum())
    words = f"{touched:,} of {total:,} training examples ({_percent(touched, total)}) are changed."
    if not touched:
        return words
    shares = hit.double() / counts.examples.clamp(min=1)
    worst, least = int(shares.argmax()), int(shares.argmin())
    if len(names) > 1 and float(shares[worst]) > 1.5 * touched / total:
        words += (
            f" Not all classes alike: {names[worst]} loses or changes {int(hit[worst]):,} of {int(counts.examples[worst]):,} "
            f"({_percent(int(hit[worst]), int(counts.examples[worst]))}), {names[least]} {int(hit[least]):,} of {int(counts.examples[least]):,}."
        )
    if counts.lost is not None and not _prunes(known):
        words += f" {int(counts.lost.sum()):,} of the changed ones had a right label, as far as the true labels are known."
    return words


def _sure(known: Known) -> str:
    said = []
    found, decision = _against_all(known.verdict), known.decision
    if found is not None and found.n >= FEWEST and found.low is not None and found.high is not None:
        said.append(
            f"Training again {found.n} times each way changed the share of test examples predicted right by {100 * found.effect:+.2f} percentage points "
            f"(95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f}), which {_chance(found)}."
        )
    if _prunes(known):
        if found is None:
            said.append("Nothing was trained again yet, and no score tells how good a model from fewer examples is.")
    elif known.cleaning is not None and known.cleaning.touched:
        one = known.cleaning
        said.append(
            f"Of the {one.touched:,} changed, {one.hit:,} labels are known to be wrong ({_percent(one.hit, one.touched)}), which is "
            f"{_percent(one.hit, one.planted)} of all {one.planted:,} wrong ones."
            if one.planted
            else f"None of the {one.touched:,} changed labels is known to be wrong."
        )
    elif known.run.task != "classes":
        said.append("A rank says which examples stand out, and not why.")
    elif decision is not None and found is None:
        said.append(_unchecked(int(decision.touched.sum())))
    elif decision is None:
        said.append("A rank is a suspicion and no proof; nobody has checked yet how many of the first labels really are wrong.")
    if words := _quality(known.learning):
        said.append(words)
    if known.counted is not None and known.counted.clear:
        said.append(known.counted.sentence)
    return " ".join(said)


def _unchecked(touched: int) -> str:
    if not touched:
        return "Nothing is changed, so there is nothing to check."
    how = "all of them" if touched <= MARKED else f"{MARKED} of them in random order"
    interval = "" if touched <= MARKED else ", with an interval"
    return f"Nobody has checked yet how many of these labels really are wrong. Marking {how} tells the share{interval}."


def _chance(found: Comparison) -> str:
    if found.significant:
        return "chance alone would hardly do"
    beyond = found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
    why = ", once it is counted that several comparisons were made; more trainings can tell" if beyond else ""
    return f"chance alone may do{why}"


def _quality(learning: Sequence[LearningCurve]) -> str:
    """How good the recorded model was, and what follows."""
    curves = {one.part: one for one in learning if one.accuracy is not None}
    parts = []
    if HELD_OUT in curves:
        share = 100 * float(curves[HELD_OUT].accuracy[-1])  # type: ignore[index]
        parts.append(f"{share:.1f} % of the given labels of examples that it was not trained on")
    if "training" in curves:
        parts.append(f"{100 * float(curves['training'].accuracy[-1]):.1f} % of the given labels of the training examples")  # type: ignore[index]
    if "test" in curves:
        parts.append(f"{100 * float(curves['test'].accuracy[-1]):.1f} % of those of the test examples")  # type: ignore[index]
    if not parts:
        return ""
    end = "" if any(one.over for one in curves.values()) else " at the end"
    return f"The recorded model predicted {' and '.join(parts)}{end}; where a model has not learned a class, what it suspects there may be its own mistake."


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} %"
