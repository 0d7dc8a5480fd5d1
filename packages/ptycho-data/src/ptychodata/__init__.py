"""Scans, file formats, the reference physics and everything else that needs no framework."""

__version__ = "0.1.0"
