"""An exhibit as one self-contained HTML page. Computes nothing."""

from .page import render
from .thumbnails import thumbnail

__all__ = ["render", "thumbnail"]
