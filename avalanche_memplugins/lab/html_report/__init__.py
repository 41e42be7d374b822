"""The comparison as one HTML file that needs nothing else: no network, no scripts, no files beside it."""

from .page import render

__all__ = ["render"]
