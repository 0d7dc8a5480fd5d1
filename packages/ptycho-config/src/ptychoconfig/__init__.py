"""Settings, payloads and typed errors of ``ptycho``; needs no framework."""

__version__ = "0.1.0"
