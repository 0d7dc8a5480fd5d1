"""The tables of PtychoPINN's names and ours, in Markdown, from ``ptychoconfig.legacy``."""

from ptychoconfig import legacy
from ptychoconfig.describe import flag_name
from ptychoconfig.schema import SECTIONS

__all__ = ["flags", "keys"]

_SECTIONS = {
    "train": ("model", "data", "training", "execution"),
    "infer": ("data", "inference", "evaluation", "execution"),
}
"""Command → sections whose settings are its flags."""


def keys() -> str:
    """Every key of PtychoPINN's flat parameters: its setting here, or why there is none."""
    rows = {key: f"`{section}.{name}`" for key, (section, name) in legacy.KEY_MAPPINGS.items()}
    rows |= legacy.ARGUMENTS
    rows |= {key: f"none: {why}" for key, why in legacy.DROPPED.items()}
    return _table("key of PtychoPINN", "here", {f"`{key}`": ours for key, ours in rows.items()})


def flags() -> str:
    """Every flag of PtychoPINN's commands whose name or values differ here."""
    return "\n".join(
        f"### `ptycho {command}`\n\n{_table('PtychoPINN', 'here', _flags(command))}"
        for command in ("train", "infer")
    )


def _flags(command: str) -> dict[str, str]:
    fields = [SECTIONS[section].model_fields for section in _SECTIONS[command]]
    known = {flag_name(name) for names in fields for name in names}
    rows = {
        f"`--{old}`": f"the argument {'BUNDLE' if old == 'model-path' else 'SCAN'}"
        for old in legacy.POSITIONS[command]
    }
    renamed = sorted(legacy.RENAMED[command].items())
    rows |= {
        f"`--{old}`": f"`--{ours}`"
        for old, ours in renamed
        if f"--{ours.removeprefix('no-')}" in known
    }
    if command == "train":
        spelled = {f"{loss}": " ".join(words) for loss, words in legacy.LOSSES.items()}
        rows |= {f"`--torch-loss-mode {loss}`": f"`{words}`" for loss, words in spelled.items()}
    rows |= {
        f"`--{name} {theirs}`": f"`--{name} {ours}`"
        for (name, theirs), ours in legacy.VALUES.items()
        if name == "backend" or f"--{name}" in known
    }
    for old in legacy.WITHOUT_COUNTERPART[command]:
        why = legacy.DROPPED.get(legacy.REASONS.get(old, ""))
        rows[f"`--{old}`"] = "no effect" + (f": {why}" if why else "")
    return rows


def _table(left: str, right: str, rows: dict[str, str]) -> str:
    lines = [f"| {left} | {right} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows.items())]
    return "\n".join([*lines, ""])
