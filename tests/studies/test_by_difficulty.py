import dataclasses
import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from assay.core.errors import OutputExists, UnknownName, UsageError
from assay.core.ids import Ids
from assay.core.study import ALL, EASY, HARD, RANDOM, Pruned, Study
from assay.experiments.execution import Execution
from assay.experiments.plan import Plan, load_data
from assay.experiments.progress import Progress
from assay.maths import draws, power_law
from assay.maths.statistics import holm
from assay.runs.artefacts import load_json, load_outcome, load_scores, load_study, save_json, save_study
from assay.runs.paths import StudyPaths
from assay.runs.run import Run
from assay.studies.by_difficulty import Setup, analysed, kept
from assay.studies.scaling import ScalingGrid, study_scaling
from studies.conftest import HOW, SMALL

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "selection.npz")
PERCENTS = (10, 20, 30, 60, 70, 90, 100)


@pytest.mark.parametrize(("percent", "arm", "balanced"), list(itertools.product(PERCENTS, (HARD, EASY), (False, True))))
def test_what_is_kept_is_what_was_computed_elsewhere(percent, arm, balanced):
    scores, labels = torch.from_numpy(GOLDEN["score"]), torch.from_numpy(GOLDEN["label"])
    found = kept(scores, Ids(range(97)), percent / 100, arm, labels if balanced else None)
    assert found.tolist() == GOLDEN[f"{arm}_{'balanced_' * balanced}{percent}"].tolist()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 100))
def test_the_hard_and_the_easy_share_no_example_where_both_fit(values, percent):
    scores, ids = torch.tensor(values, dtype=torch.float64), Ids(range(len(values)))
    hard, easy = (set(kept(scores, ids, percent / 100, arm).tolist()) for arm in (HARD, EASY))
    assert len(hard) == len(easy) == len(values) * percent // 100
    assert percent > 50 or not hard & easy
    assert not hard or not easy or min(scores[list(hard)]) >= min(scores[list(easy)])


def test_no_arm_and_no_seed_is_missing(made):
    study, _ = made
    found = {(one.arm, one.metric, one.size, one.fraction, one.seed) for one in study.trained}
    ways = [(RANDOM, "")] + [(arm, metric) for metric in HOW["metrics"] for arm in (HARD, EASY)]
    due = {(ALL, "", size, 1.0, seed) for size in (0.5, 1.0) for seed in (3, 4)}
    due |= {(*way, size, 0.5, seed) for way in ways for size in (0.5, 1.0) for seed in (3, 4)}
    assert found == due and len(study.trained) == len(due)


def test_all_take_as_many_steps_as_everything(made):
    study, folder = made
    outcomes = [load_outcome(path) for path in StudyPaths(folder).trial("x", 0).parent.glob("*.json")]
    assert {one.steps for one in outcomes} == {one.steps for one in study.trained} == {2 * 13}
    assert {one.examples for one in study.trained if one.fraction == 1 and one.size == 1} == {397}


def test_counts_are_whole_numbers_of_the_part(made):
    study, _ = made
    for one in study.trained:
        whole = next(all_.examples for all_ in study.trained if (all_.arm, all_.size) == (ALL, one.size))
        assert one.examples == (whole if one.fraction == 1 else whole // 2)


def test_each_repetition_and_each_model_draws_for_itself(made):
    _, folder = made
    runs = [Run(path) for path in (folder / "probes").iterdir()]
    assert len(runs) == 4
    seeds, weights, parts = set(), set(), {}
    for run in runs:
        for member in (run, Run(run.paths.model(1).folder)):
            seeds.add(member.header.seed)
            state = member.checkpoint(1).read_all()
            weights.add(next(value for name, value in sorted(state.items()) if name.endswith("weight")).numpy().tobytes())
        parts.setdefault(len(run.ids), []).append(set(run.ids))
    assert len(weights) == 8, "two models ended in the same weights"
    assert len(seeds) == 4, "a model of one repetition has the seed of another"
    half, whole = (parts[count] for count in sorted(parts))
    assert half[0] != half[1] and whole[0] == whole[1]


def test_a_smaller_part_is_within_a_larger_one_of_the_same_repetition(made):
    _, folder = made
    by_seed = {}
    for path in (folder / "probes").iterdir():
        run = Run(path)
        by_seed.setdefault(run.header.about["plan"]["seed"], []).append(set(run.ids))
    for parts in by_seed.values():
        small, large = sorted(parts, key=len)
        assert small < large


def test_final_models_start_and_draw_by_seeds_of_their_own(made):
    # The final nets of a repetition share their weights at the start, and have them from no model of the recording.
    _, folder = made
    plan = Plan.make({**SMALL, "seed": 3})
    loaded = load_data(plan)
    final = draws.integer(3, "study final")
    built = plan.build(loaded, final).state_dict()
    recorded = {Run(path).header.seed for path in (folder / "probes").iterdir()}
    assert final not in recorded and draws.integer(4, "study final") != final
    assert not all(torch.equal(a, b) for a, b in zip(built.values(), plan.build(loaded, 3).state_dict().values(), strict=True))


class Counting(Progress):
    def __init__(self):
        self.said = []

    def advance(self, task, done, total, words=""):
        self.said.append((task, done, total))


def test_the_same_study_again_trains_nothing_and_other_settings_are_refused(made, tmp_path):
    study, folder = made
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    progress = Counting()
    again = study_scaling(copy, SMALL, scale="tiny", grid=ScalingGrid(**HOW), execution=Execution(progress=progress))
    assert {entry for entry in progress.said if entry[0] != "theory"} == {("record", 4, 4), ("train", 24, 24)}
    assert again.fingerprint == study.fingerprint and again.sentences == study.sentences
    with pytest.raises(OutputExists, match=r"holds a study of other settings \(seeds was 2 and is 1\); name another folder"):
        study_scaling(copy, SMALL, scale="tiny", grid=ScalingGrid(**{**HOW, "seeds": 1}))
    with pytest.raises(OutputExists, match=r"plan\.recipe\.lr was None and is 0\.2"):
        study_scaling(copy, {**SMALL, "recipe": {"epochs": 2, "batch": 32, "lr": 0.2}}, scale="tiny", grid=ScalingGrid(**HOW))


def test_a_damaged_training_is_done_again_and_all_comes_out_the_same(made, tmp_path):
    study, folder = made
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    one = sorted((copy / "trials").glob("*.json"))[0]
    one.write_text(one.read_text()[:-20])
    (copy / "study.json").unlink()
    progress = Counting()
    again = study_scaling(copy, SMALL, scale="tiny", grid=ScalingGrid(**HOW), execution=Execution(progress=progress))
    assert ("train", 23, 24) in progress.said and ("train", 24, 24) in progress.said
    assert again.fingerprint == study.fingerprint


def test_what_is_kept_of_scores_is_found_by_everything_they_were_made_of():
    # The project's file name had metric, dataset and size only, so that other seeds, epochs or models got another's scores.
    plan = Plan.make(SMALL)
    setup = Setup("x", plan, {"models": 2, "recipe": {"epochs": 2}}, ("vog",), (0.5, 1.0), (0.5,), 2)
    others = [
        dataclasses.replace(setup, probe={"models": 3, "recipe": {"epochs": 2}}),
        dataclasses.replace(setup, probe={"models": 2, "recipe": {"epochs": 3}}),
        dataclasses.replace(setup, plan=Plan.make({**SMALL, "seed": 9})),
        dataclasses.replace(setup, plan=Plan.make({**SMALL, "net": "mlp"})),
    ]
    told = [json.dumps(one.probed(0, 0.5).plain(), sort_keys=True) for one in (setup, *others)]
    told += [json.dumps(setup.probed(1, 0.5).plain(), sort_keys=True), json.dumps(setup.probed(0, 1.0).plain(), sort_keys=True)]
    assert len(set(told)) == 7


def test_saved_and_loaded_is_the_same(made, tmp_path):
    study, folder = made
    loaded = load_study(StudyPaths(folder).results)
    assert load_study(folder).sentences == load_study(str(folder)).sentences == loaded.sentences
    assert loaded.trained == study.trained and loaded.laws == study.laws and loaded.frontiers == study.frontiers
    assert loaded.contests == study.contests and loaded.theory == study.theory and loaded.settings == study.settings
    assert torch.equal(loaded.agreement.correlations, study.agreement.correlations)
    save_study(loaded, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == StudyPaths(folder).results.read_bytes()


def test_the_agreement_is_the_mean_over_repetitions(made):
    study, folder = made
    found = []
    for path in (folder / "probes").iterdir():
        run = Run(path)
        if len(run.ids) == 397:
            one, other = (load_scores(run.paths.scores(metric)) for metric in HOW["metrics"])
            found.append(spearmanr(one.of(run.ids), other.of(run.ids)).statistic)
    assert len(found) == 2 and float(study.agreement.correlations[0, 1]) == pytest.approx(np.mean(found), abs=1e-12)


def planted(errors, seeds=4):
    """A study whose errors are those of a function of arm, examples and seed."""
    trained = []
    for seed, size in itertools.product(range(seeds), (0.1, 0.2, 0.5, 1.0)):
        n = round(1000 * size)
        rows = [(ALL, "", 1.0, n)] + [
            (arm, metric, 0.5, n // 2) for arm, metric in ((RANDOM, ""), (HARD, "a"), (EASY, "a"), (HARD, "b"), (EASY, "b"))
        ]
        for arm, metric, fraction, count in rows:
            error = errors(arm, metric, count, seed)
            trained.append(Pruned(arm, metric, size, fraction, seed, count, 10, 1 - error, 0.1, 0.0))
    return Study("scaling", {}, {}, tuple(trained))


def law(n, seed):
    return 2.0 * (1 + 0.02 * seed) * n**-0.4


def test_a_planted_law_is_found_and_who_beats_it():
    def errors(arm, metric, n, seed):
        wobble = 1 + 0.01 * ((7 * seed + n // 50) % 5 - 2)
        better = {HARD: 0.5, EASY: 1.5}.get(arm, 1.0) if metric == "a" else 1.2 if metric == "b" else 1.0
        return law(n, seed) * better * wobble

    found = analysed(planted(errors))
    (whole,) = [one for one in found.laws if one.arm == ALL and not one.floor]
    assert whole.exponent == pytest.approx(0.4, abs=0.02) and whole.low < whole.exponent < whole.high
    assert (whole.points, whole.seeds) == (4, 4) and "4 seeds" in whole.sentence
    (random,) = [one for one in found.laws if one.arm == RANDOM and not one.floor]
    assert random.points > 4 and random.exponent == pytest.approx(0.4, abs=0.02)
    by_a = [one for one in found.frontiers if one.metric == "a"]
    assert [one.examples for one in by_a] == [50, 100, 250, 500] and {one.arm for one in by_a} == {HARD}
    # Below the smallest size of the law nothing is held against it.
    assert by_a[0].gain is None and not by_a[0].below
    assert all(one.below for one in by_a[1:]) and all(one.gain == pytest.approx(one.error, rel=0.2) for one in by_a[1:])
    assert by_a[0].slope is None and by_a[1].slope == pytest.approx(-0.4, abs=0.1)
    by_b = [one for one in found.frontiers if one.metric == "b"]
    assert not any(one.below for one in by_b)
    wins = {(one.metric, one.comparison.baseline): one.comparison for one in found.contests if one.comparison.treatment == HARD}
    assert wins["a", EASY].significant and wins["a", EASY].effect > 0 and wins["a", RANDOM].effect > 0
    assert not wins["b", EASY].significant
    said = " ".join(found.sentences)
    assert "By a, chosen from 100% of the data: keeping the hard is better at 50% kept." in said
    assert "By a, 3 of the 3 pruned points" in said and "no significant difference at 50% kept." in said


def test_the_law_is_the_fit_of_mean_errors():
    found = analysed(planted(lambda arm, metric, n, seed: law(n, seed)))
    sizes = (100, 200, 500, 1000)
    expected = power_law.fit(sizes, [np.mean([law(n, seed) for seed in range(4)]) for n in sizes])
    assert found.laws[0].exponent == pytest.approx(expected.exponent, rel=1e-12)
    assert found.laws[0](300) == pytest.approx(expected(300), rel=1e-12)


def test_without_errors_there_is_no_law_and_that_is_said():
    found = analysed(planted(lambda arm, metric, n, seed: 0.0))
    assert found.laws == () and found.notes[0].startswith("No law of all: A power law is fitted in logarithms")
    assert all(one.gain is None for one in found.frontiers)


def test_a_seed_without_errors_takes_the_interval_and_not_the_law():
    for bad, note in ((0, False), (3, True)):
        found = analysed(planted(lambda arm, metric, n, seed: 0.0 if (arm, n, seed) == (ALL, 1000, bad) else law(n, seed)))  # noqa: B023
        whole = next(one for one in found.laws if one.arm == ALL)
        assert whole.low is None and found.notes[0].startswith("No interval of the exponent of all")
        # The first of four seeds chooses the points, the others test them.
        assert any("No point is compared with the power law" in one for one in found.notes) == note
        assert all(one.gain is None for one in found.frontiers) == note


def test_slopes_are_between_means_that_are_no_whole_numbers():
    trained = []
    for seed, sizes in enumerate(((10, 11), (11, 11), (11, 11))):
        for size, count in zip((0.5, 1.0), sizes, strict=True):
            trained.append(Pruned(ALL, "", size, 1.0, seed, count, 1, 1 - 2.0 / count - size / 100, 0.1, 0.0))
            for arm in (HARD, EASY, RANDOM):
                metric = "" if arm == RANDOM else "a"
                trained.append(Pruned(arm, metric, size, 0.5, seed, count // 2, 1, 0.1, 0.1, 0.0))
    found = analysed(Study("x", {}, {}, tuple(trained)))
    assert all(one.slope is None or np.isfinite(one.slope) for one in found.frontiers)


def test_a_law_that_rises_is_written_with_one_sign():
    found = analysed(planted(lambda arm, metric, n, seed: 0.1 * n**0.05 * (1 + 0.01 * seed)))
    assert "n^0.050 at" in found.laws[0].sentence and "--" not in found.laws[0].sentence


def test_files_that_changed_are_read_anew(tmp_path):
    def written(seed):
        draw = np.random.default_rng(seed)
        np.savez(
            tmp_path / "d.npz",
            inputs=draw.normal(size=(120, 4)).astype(np.float32) + 2 * seed * (np.arange(120) % 2)[:, None],
            labels=np.arange(120) % 2,
        )

    settings = {**SMALL, "data": f"arrays:path={tmp_path / 'd.npz'},test=0.5", "seed": 0, "recipe": {"epochs": 20, "batch": 32}}
    how = {
        "metrics": "cg_score:protocol=rest",
        "sizes": (1.0,),
        "fractions": (0.5,),
        "seeds": 1,
        "probe_epochs": 1,
    }
    how |= {"models": 1, "angles": ()}
    written(0)
    before = study_scaling(tmp_path / "a", settings, scale="tiny", grid=ScalingGrid(**how))
    written(1)
    after = study_scaling(tmp_path / "b", settings, scale="tiny", grid=ScalingGrid(**how))
    assert after.errors(ALL, "", 1.0, 1.0)[0] < 0.1 < before.errors(ALL, "", 1.0, 1.0)[0]
    again = study_scaling(tmp_path / "a", settings, scale="tiny", grid=ScalingGrid(**how))
    assert again.fingerprint == after.fingerprint != before.fingerprint


def test_one_seed_has_no_intervals():
    found = analysed(planted(lambda arm, metric, n, seed: law(n, seed), seeds=1))
    assert found.laws[0].low is None and "interval" not in found.laws[0].sentence
    assert found.contests == () and all(one.gain is None and not one.below for one in found.frontiers)


def test_a_study_with_a_hole_is_refused():
    whole = planted(lambda arm, metric, n, seed: law(n, seed))
    with pytest.raises(UsageError, match=r"The arm .* at size .* has 3 of 4 seeds"):
        dataclasses.replace(whole, trained=whole.trained[:-1])
    without = tuple(one for one in whole.trained if not (one.arm == EASY and one.metric == "b" and one.size == 0.5))
    with pytest.raises(UsageError, match=r"The arm easy b is missing at size 0.5, kept 0.5"):
        dataclasses.replace(whole, trained=without)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": (0.0, 1.0)}, "sizes: 0 is outside 0..1"),
        ({"sizes": ()}, "sizes: none; give at least one"),
        ({"sizes": (0.5, 0.5)}, "sizes: 0.5, 0.5; give at least one, and each once"),
        ({"fractions": (1.5,)}, "fractions: 1.5 is outside 0..1"),
        ({"metrics": ()}, "metrics: none"),
        ({"metrics": ("vog", "vog:reduce=std")}, "metrics: vog, vog; give"),
        ({"seeds": 0}, "seeds=0 is no whole number"),
        ({"plan": {"validation": 0.2}}, "leave validation, subset, models"),
        ({"plan": {"models": 2}}, "leave validation, subset, models"),
        ({"plan": {"member": 2}}, "leave validation, subset, models"),
        ({"plan": {"record": {"keep_logits": True}}}, "leave the table record out"),
        ({"metrics": ("el2n:at=50",)}, "reads at least 51 epochs, and the recordings have 2"),
    ],
)
def test_settings_out_of_range_are_refused(change, words):
    plain = {**SMALL, **change.get("plan", {})}
    parts = {"probe": {"models": 2}, "metrics": ("vog",), "sizes": (1.0,), "fractions": (0.5,), "seeds": 2, **change}
    with pytest.raises(UsageError, match=words):
        Setup(name="x", **{**parts, "plan": Plan.make(plain)})
    with pytest.raises(UnknownName, match="vogg"):
        Setup("x", Plan.make(SMALL), {}, ("vogg",), (1.0,), (0.5,), 2)


def test_a_choice_of_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"Of \d+ examples \(size 0.05\) 0.01 is none; give a larger"):
        study_scaling(
            tmp_path / "x",
            SMALL,
            scale="tiny",
            grid=ScalingGrid(**{**HOW, "sizes": (0.05,), "fractions": (0.01,), "seeds": 1, "angles": ()}),
        )


def test_a_page_of_someone_else_is_not_written_over(tmp_path):
    (tmp_path / "study.html").write_text("mine")
    with pytest.raises(OutputExists, match="is no page of assay"):
        study_scaling(tmp_path, SMALL, scale="tiny", grid=ScalingGrid(**HOW))


def without_effect(draw, seeds, noise):
    """A study in which every choice obeys one law, whatever is kept."""
    trained = []
    for seed, size, fraction in itertools.product(range(seeds), (0.1, 0.2, 0.4, 0.7, 1.0), (1.0, 0.8, 0.6, 0.4, 0.2)):
        n = round(5000 * size * fraction)
        for arm, metric in [(ALL, "")] if fraction == 1 else [(RANDOM, ""), (HARD, "a"), (EASY, "a")]:
            error = noise(draw, 2.0 * n**-0.4)
            trained.append(Pruned(arm, metric, size, fraction, seed, n, 10, 1 - error, 0.1, 0.0))
    return Study("scaling", {}, {}, tuple(trained))


NOISES = {
    "normal": lambda draw, error: error * (1 + 0.05 * draw.normal()),
    "skewed": lambda draw, error: error * np.exp(0.15 * draw.normal() - 0.15**2 / 2),
    "counts": lambda draw, error: draw.binomial(1000, error) / 1000,
}


def claimed(noise, seeds, studies):
    """Part of the studies without an effect that call anything significant, and of those that had a point below the law at p < .05."""
    draw, found, naive = np.random.default_rng(seeds), 0, 0
    for _ in range(studies):
        study = analysed(without_effect(draw, seeds, NOISES[noise]))
        found += any(one.below for one in study.frontiers) or any(one.comparison.significant for one in study.contests)
        ps = [one.p for one in study.frontiers if one.gain is not None and one.gain > 0]
        naive += any(p < 0.05 for p in (*ps, *(one.comparison.p for one in study.contests)))
    return found / studies, naive / studies


@pytest.mark.slow
def test_a_study_without_an_effect_finds_none():
    """But in 5 % of studies; without correction nearly all of them find something."""
    found, naive = claimed("normal", 5, 20)
    assert found < 0.05 + 3 * (0.05 * 0.95 / 20) ** 0.5 < naive


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "seeds"), [(noise, seeds) for noise in NOISES for seeds in (3, 5, 10)])
def test_studies_without_an_effect_find_none(noise, seeds):
    found, naive = claimed(noise, seeds, 150)
    print(f"{noise}, {seeds} seeds: {100 * found:.1f} % of studies call something significant, uncorrected {100 * naive:.0f} %")
    assert found < 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5


def test_a_frontier_is_tested_on_seeds_that_did_not_choose_it():
    def errors(arm, metric, n, seed):
        # Great luck of one choice in the one seed that chooses: it is on the frontier, and its error is that of the others.
        lucky = seed == 0 and (arm, metric, n) == (HARD, "a", 250)
        return law(n, seed) * (0.2 if lucky else 1.0) * (1 + 0.01 * ((3 * seed + n // 50) % 4))

    found = analysed(planted(errors))
    (point,) = [one for one in found.frontiers if (one.metric, one.arm, one.examples) == ("a", HARD, 250)]
    assert point.error == pytest.approx(np.mean([errors(HARD, "a", 250, seed) for seed in (1, 2, 3)]), rel=1e-9)
    expected = [
        power_law.fit((100, 200, 500, 1000), [errors(ALL, "", n, seed) for n in (100, 200, 500, 1000)])(250) for seed in (1, 2, 3)
    ]
    assert point.gain == pytest.approx(
        np.mean([law_ - errors(HARD, "a", 250, seed) for law_, seed in zip(expected, (1, 2, 3), strict=True)])
    )
    assert not point.below and point.adjusted > point.p


def test_everything_that_a_study_tests_is_corrected_together():
    def errors(arm, metric, n, seed):
        return law(n, seed) * (0.9 if (arm, metric) == (HARD, "a") else 1.0) * (1 + 0.01 * ((7 * seed + n // 50) % 5))

    found = analysed(planted(errors, seeds=5))
    points = [one for one in found.frontiers if one.p is not None]
    ps = [one.p for one in points] + [one.comparison.p for one in found.contests]
    adjusted = [one.adjusted for one in points] + [one.comparison.adjusted for one in found.contests]
    assert adjusted == holm(ps) and found.claims == len(ps) == 24 + len(points) and points
    assert {one.comparison.family for one in found.contests} == {found.claims}
    assert (
        found.sentences[-2]
        == f"Significance is corrected (Holm) for all {found.claims} points and comparisons that this study tests."
    )
    assert "covers 88 to 92 %" in found.sentences[-1] and "judged by the same test examples" in found.sentences[-1]


@pytest.mark.parametrize("seeds", [2, 3])
def test_few_seeds_say_what_they_cannot_tell(seeds):
    found = analysed(planted(lambda arm, metric, n, seed: law(n, seed) * (0.5 if arm == HARD else 1.0), seeds=seeds))
    assert any("The points of a frontier are not tested: that takes 4 seeds or more" in one for one in found.notes)
    assert all(one.gain is None and not one.below for one in found.frontiers)
    if seeds == 2:
        assert not any(one.comparison.significant for one in found.contests) and found.claims == 0
        assert found.notes[0].startswith("2 seeds cannot tell a difference from chance")
        assert "2 seeds cannot tell at 50%" in " ".join(found.sentences)


def test_an_older_study_comes_back_without_its_intervals(made, tmp_path):
    """They were percentile bootstraps, which were too narrow."""
    _, folder = made
    body = load_json("study", StudyPaths(folder).results)
    del body["claims"]
    body["laws"] = [{**one, "low": 0.1, "high": 0.2} for one in body["laws"]]
    for one in body["contests"]:
        del one["comparison"]["family"]
        one["comparison"] |= {"low": 0.1, "high": 0.2}
    save_json("study", body, tmp_path / "old.json")
    old = load_study(tmp_path / "old.json")
    assert all(one.low is None for one in old.laws) and all(one.comparison.low is None for one in old.contests)
