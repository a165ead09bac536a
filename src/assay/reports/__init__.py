"""A report or a study as one self-contained HTML page."""

from .page import render
from .study import render_study
from .thumbnails import thumbnail

__all__ = ["render", "render_study", "thumbnail"]
