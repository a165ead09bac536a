from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from assay.runs.paths import RunPaths, slug


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1))
def test_a_title_becomes_one_name_of_a_file(title):
    name = slug(title)
    assert "/" not in name and "\0" not in name and name.isascii()
    assert RunPaths(Path("run")).scores(title).parent == Path("run/scores")
    assert slug(name) == name


def test_nothing_stands_in_the_place_of_something_else():
    paths = RunPaths(Path("run"))
    alone = [paths.header, paths.commits, paths.examples, paths.lock, paths.truth, paths.report, paths.trials, paths.start]
    by_epoch = [path for epoch in (0, 1, 10**6) for path in paths.of_epoch(epoch)]
    named = [
        paths.scores("dual"),
        paths.decision("dual"),
        paths.verdict("dual"),
        paths.curve("dual"),
        paths.lds("dual"),
        paths.explanation("dual"),
        paths.trial("x", "kept", 1),
    ]
    everything = [*alone, *by_epoch, *named]
    assert len(set(everything)) == len(everything) == 8 + 15 + 7
    assert sorted(map(str, by_epoch[:10:5])) == [str(paths.shard(0)), str(paths.shard(1))]
