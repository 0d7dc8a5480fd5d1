"""``python -m ptychocli``: the ``ptycho`` command where its script is not on the path."""

from ptychocli.main import run

run()
