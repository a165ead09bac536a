"""Progress reports of a running step. The base class does nothing; the command line displays them."""

from ..core.scores import Scores


class Progress:
    """Receives every finished unit of work. Subclass it to show progress."""

    def advance(self, task: str, done: int, total: int, words: str = "") -> None:
        """`done` of `total` units of `task` are finished."""

    def most(self, scores: Scores) -> None:
        """Show the examples that rank first by a method that is computed during training.

        Args:
            scores: The current scores of the method.
        """
