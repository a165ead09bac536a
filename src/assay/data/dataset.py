"""The one interface that a dataset implements."""

import abc
from typing import ClassVar

from ..core import options
from .examples import Split


class AbstractDataset(abc.ABC):
    """A source of examples. Subclasses are final frozen dataclasses whose fields are the options."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abc.abstractmethod
    def load(self) -> Split:
        """Read everything; the same files and options give the same bytes.

        Raises:
            UsageError: A file is absent, damaged or not what the options say; names the file and the row.
        """

    @property
    def title(self) -> str:
        """Name with the options that differ from their defaults: `cifar10:path=data,limit=10000`."""
        return options.join(self.name, options.changed(self))
