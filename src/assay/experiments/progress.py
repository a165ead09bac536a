"""What a step tells of how far it is. Does nothing by itself; the command line draws it."""

from ..core.scores import Scores


class Progress:
    """Told of every unit of work that is done. Subclass to show it."""

    def advance(self, task: str, done: int, total: int, words: str = "") -> None:
        """`done` of `total` units of `task` are finished."""

    def most(self, scores: Scores) -> None:
        """What a method that runs along says by now."""
