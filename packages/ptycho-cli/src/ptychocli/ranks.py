"""Which of several processes of one run this is: only the first speaks and writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptychocli.options import given
from ptychoconfig.resolve import resolve
from ptychoconfig.schema import ExecutionConfig
from ptychodata.ranks import rank

__all__ = ["follows"]


def follows(settings: Mapping[str, Any], config_file: Path | None) -> bool:
    """Whether another process speaks and writes, as the settings and the environment say."""
    resolved = resolve(["execution"], flags=given(settings, "execution"), config_file=config_file)
    execution = resolved.sections["execution"]
    assert isinstance(execution, ExecutionConfig)
    return rank(execution) > 0
