"""What a step tells of how far it is. Does nothing by itself; the command line draws it."""


class Progress:
    """Told of every unit of work that is done. Subclass to show it."""

    def advance(self, task: str, done: int, total: int, words: str = "") -> None:
        """`done` of `total` units of `task` are finished."""
