"""What commands print: tables, sentences, and progress while they work."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape as unmarked
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from ..core.scores import Direction, Scores, ordered
from ..core.words import printable
from ..experiments.progress import Progress
from . import output

MOST = 6
"""Examples that are named while training goes on."""
console = Console(highlight=False, soft_wrap=True)


def escape(text: str) -> str:
    """A text with rich markup and terminal control codes escaped: names of examples and classes may come from untrusted data."""
    return unmarked(printable(text))


class LiveProgress(Progress):
    """On a terminal, one bar per task followed by its latest message, and below the bars a table of the examples that currently rank first.

    Without a terminal, one line for each tenth of the work.
    """

    def __init__(self, bars: Bars | None = None, live: Live | None = None):
        self._bars, self._live = bars, live
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, int] = {}
        self._task = ""
        self._told: dict[str, tuple[str, int]] = {}
        self._first: dict[str, tuple[str, list[str]]] = {}

    def advance(self, task: str, done: int, total: int, words: str = "") -> None:
        self._task = task
        if self._bars is None:
            tenth = 10 * done // max(total, 1)
            if self._said.get(task) != tenth:
                self._said[task] = tenth
                print(printable(f"{task} {done}/{total} {words}".rstrip()), flush=True)
            return
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(task, total=total, words="")
        self._bars.update(self._tasks[task], completed=done, total=total, words=escape(words))

    def most(self, scores: Scores) -> None:
        worst = ordered(scores.hardness(), scores.ids, descending=True)[:MOST]
        cells = [f"{scores.ids.values[at]} ({float(scores.values[at]):.3g})" for at in worst.tolist()]
        words = "most harmful" if scores.direction is Direction.LOW_IS_SUSPECT else "most suspect or hard"
        if self._bars is None or self._live is None:
            now = self._task, self._said.get(self._task, -1)
            if self._told.get(scores.title) != now:
                self._told[scores.title] = now
                print(printable(f"{scores.title}: {words} so far: {', '.join(cells)}"), flush=True)
            return
        self._first[scores.title] = words, cells
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title, (meaning, _) in self._first.items():
            table.add_column(escape(f"{title}\n{meaning} so far"))
        columns = [[*cells, *[""] * (MOST - len(cells))] for _, cells in self._first.values()]
        for row in zip(*columns, strict=True):
            table.add_row(*map(escape, row))
        self._live.update(Group(self._bars, table))


@contextlib.contextmanager
def showing_progress() -> Iterator[Progress]:
    """Context that shows progress bars and the table of `LiveProgress` while the work runs; with `--quiet` nothing."""
    if output.now.quiet:
        yield Progress()
        return
    if not console.is_terminal:
        yield LiveProgress()
        return
    columns = (
        TextColumn("{task.description:>7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    bars = Bars(*columns, console=console)
    with Live(bars, console=console) as live:
        yield LiveProgress(bars, live)


WIDE = 10_000
"""Columns of a table that no terminal shows: one line per row, for grep and the like."""


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Print a table; columns named in `right` are numbers. Numbers with decimals are shown to four digits, and are whole in a document."""
    if output.now.json:
        output.now.add_table(title, columns, rows, right)
        return
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        # The first column is what a row is called by, and must be readable in one piece.
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(escape(output.shown(cell)) for cell in row))
    wide = Console(highlight=False, width=WIDE)
    (console if console.is_terminal else wide).print(table, soft_wrap=False)


def say(words: str) -> None:
    """Print a sentence, as it is; nothing with `--quiet`."""
    if output.now.json:
        output.now.sentences.append(printable(words))
    elif not output.now.quiet:
        console.print(escape(words))


def caution(words: str, of: str = "") -> None:
    """Print what must be known before results are trusted, also with `--quiet`; `of` is what it is about."""
    before = f"{of}: " if of else ""
    if output.now.json:
        output.now.warnings.append(printable(f"{before}{words}"))
    else:
        console.print(escape(f"{before}WARNING: {words}"))
