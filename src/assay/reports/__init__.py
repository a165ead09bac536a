"""A report or a study as one self-contained HTML page."""

from .cleansing import render_cleansing
from .fidelity import render_fidelity
from .page import render
from .study import render_study
from .thumbnails import thumbnail

__all__ = ["render", "render_cleansing", "render_fidelity", "render_study", "thumbnail"]
