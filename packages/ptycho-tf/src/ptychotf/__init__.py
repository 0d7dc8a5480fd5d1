"""The TensorFlow backend of ``ptycho``."""

__version__ = "0.1.0"
