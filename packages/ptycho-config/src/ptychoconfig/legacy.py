"""PtychoPINN's names for settings: its flat dictionary and its flags, as pure functions.

This is the one place that knows them.  Nothing here keeps state; what has no counterpart is given
back with the reason, and not dropped in silence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import SECTIONS

__all__ = [
    "ARGUMENTS",
    "DROPPED",
    "KEY_MAPPINGS",
    "LOSSES",
    "POSITIONS",
    "REASONS",
    "RENAMED",
    "VALUES",
    "WITHOUT_COUNTERPART",
    "Imported",
    "from_flat",
    "modern_flags",
    "to_flat",
]

KEY_MAPPINGS: dict[str, tuple[str, str]] = {
    "N": ("model", "N"),
    "gridsize": ("model", "gridsize"),
    "architecture": ("model", "architecture"),
    "n_filters_scale": ("model", "n_filters_scale"),
    "amp_activation": ("model", "amp_activation"),
    "pad_object": ("model", "pad_object"),
    "object.big": ("model", "object_big"),
    "probe.big": ("model", "probe_big"),
    "intensity_scale.trainable": ("model", "intensity_scale_trainable"),
    "nphotons": ("data", "nphotons"),
    "n_subsample": ("data", "n_subsample"),
    "subsample_seed": ("data", "subsample_seed"),
    "nepochs": ("training", "epochs"),
    "batch_size": ("training", "batch_size"),
    "learning_rate": ("training", "learning_rate"),
    "optimizer": ("training", "optimizer"),
    "momentum": ("training", "momentum"),
    "weight_decay": ("training", "weight_decay"),
    "scheduler": ("training", "scheduler"),
    "lr_min_ratio": ("training", "min_lr_ratio"),
    "plateau_factor": ("training", "plateau_factor"),
    "plateau_patience": ("training", "plateau_patience"),
    "plateau_min_lr": ("training", "plateau_min_lr"),
    "plateau_threshold": ("training", "plateau_threshold"),
    "gradient_clip_val": ("training", "gradient_clip_val"),
    "gradient_clip_algorithm": ("training", "gradient_clip_algorithm"),
    "nll_weight": ("training", "poisson_weight"),
    "mae_weight": ("training", "mae_weight"),
    "n_groups": ("training", "n_groups"),
    "neighbor_count": ("training", "neighbor_count"),
    "enable_oversampling": ("training", "oversampling"),
    "sequential_sampling": ("training", "sequential"),
    "probe.trainable": ("training", "probe_trainable"),
    "model_type": ("training", "model_type"),
}
"""Key of the flat dictionary → section and field."""

ARGUMENTS = {
    "train_data_file_path": "the argument SCAN of `ptycho train`",
    "test_data_file_path": "the argument SCAN of `ptycho infer`",
    "model_path": "the argument BUNDLE of `ptycho infer`",
    "output_prefix": "the flag --output-dir",
    "backend": "the flag --backend",
}
"""Key → where that is said here."""

DROPPED = {
    "C": "derived: gridsize²",
    "n_images": "an alias of n_groups",
    "positions.provided": "a scan always has positions",
    "probe.mask": "the measured probe is used as it is",
    "probe_scale": "the probe is in √photons, and there is no other scale",
    "gaussian_smoothing_sigma": "smoothing the exit wave is no part of the physics",
}
"""Key → why there is no counterpart."""

_SCHEDULES = {
    "Default": "constant",
    "Exponential": "exponential",
    "WarmupCosine": "warmup-cosine",
    "ReduceLROnPlateau": "plateau",
}


@dataclass(frozen=True)
class Imported:
    """What a flat dictionary says, in our words.

    Args:
        settings: section → field → value, as a settings file has it.
        elsewhere: key → where that is said here.
        dropped: key → why there is no counterpart.
    """

    settings: Mapping[str, Mapping[str, object]]
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)


def to_flat(settings: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """The flat dictionary of PtychoPINN for settings by section.

    As in the original, None is left out; C is derived.
    """
    flat: dict[str, object] = {}
    spelled = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    for key, (section, name) in KEY_MAPPINGS.items():
        value = settings.get(section, {}).get(name)
        if value is not None:
            flat[key] = spelled.get(str(value), value) if key == "scheduler" else value
    if isinstance(side := flat.get("gridsize"), int):
        flat["C"] = side**2
    return flat


def from_flat(flat: Mapping[str, object]) -> Imported:
    """The settings that a flat dictionary of PtychoPINN stands for; None counts as not set.

    Raises:
        ConfigError: a key that PtychoPINN does not have, or C that contradicts gridsize.
    """
    settings: dict[str, dict[str, object]] = {}
    elsewhere: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for key, value in flat.items():
        if key in KEY_MAPPINGS:
            section, name = KEY_MAPPINGS[key]
            if value is not None:
                spelled = _SCHEDULES.get(str(value), value) if key == "scheduler" else value
                settings.setdefault(section, {})[name] = spelled
        elif key in ARGUMENTS:
            elsewhere[key] = ARGUMENTS[key]
        elif key in DROPPED:
            dropped[key] = DROPPED[key]
        else:
            raise ConfigError(
                f"{key}: expected a key of PtychoPINN's parameters, found another; known are "
                f"{', '.join(sorted([*KEY_MAPPINGS, *ARGUMENTS, *DROPPED]))}"
            )
    side, groups = flat.get("gridsize"), flat.get("C")
    if isinstance(side, int) and groups is not None and groups != side**2:
        raise ConfigError(
            f"C: expected {side**2} = gridsize², found {groups!r}; leave C out, it is derived"
        )
    return Imported(settings, elsewhere, dropped)


_COMMON = {
    "device": "accelerator",
    "enable-oversampling": "oversampling",
    "sequential-sampling": "sequential",
    "accum-steps": "accumulate-grad-batches",
    "nll-weight": "poisson-weight",
    "lr-min-ratio": "min-lr-ratio",
    "checkpoint-monitor-metric": "checkpoint-monitor",
    "logger-backend": "logger",
}
RENAMED: dict[str, dict[str, str]] = {
    "train": {
        **_COMMON,
        "max-epochs": "epochs",
        "nepochs": "epochs",
        "n-images": "n-groups",
        "disable-checkpointing": "no-enable-checkpointing",
    },
    "infer": {**_COMMON, "inference-batch-size": "batch-size", "n-images": "n-subsample"},
}
"""Command → flag → its name here."""

POSITIONS = {
    "train": {"train-data-file": 0},
    "infer": {"model-path": 0, "test-data": 1, "test-data-file": 1},
}
"""Flags that are arguments here: name → place."""

_GONE_EVERYWHERE = {
    "probe-mask": False,
    "probe-mask-sigma": True,
    "probe-mask-diameter": True,
    "probe-scale": True,
    "gaussian-smoothing-sigma": True,
}
WITHOUT_COUNTERPART = {
    "train": {
        **_GONE_EVERYWHERE,
        "disable-mlflow": False,
        "do-stitching": False,
        "test-data-file": True,
    },
    "infer": {**_GONE_EVERYWHERE, "debug": False, "comparison-plot": False},
}
"""Flags that mean nothing here: name → whether a value follows."""

REASONS = {
    **dict.fromkeys(("probe-mask", "probe-mask-sigma", "probe-mask-diameter"), "probe.mask"),
    "probe-scale": "probe_scale",
    "gaussian-smoothing-sigma": "gaussian_smoothing_sigma",
}
"""Flag → the key whose reason in ``DROPPED`` is also its own."""

VALUES = {
    ("scheduler", "MultiStage"): "constant",
    ("scheduler", "Adaptive"): "constant",
    ("backend", "pytorch"): "torch",
    ("backend", "tensorflow"): "tf",
    **{("scheduler", theirs): ours for theirs, ours in _SCHEDULES.items()},
}
"""Flag and its value → the value here."""

_TRUTHS = (["True"], ["False"])
LOSSES = {
    "poisson": ["--poisson-weight", "1", "--amplitude-weight", "0"],
    "mae": ["--mae-weight", "1", "--amplitude-weight", "0"],
}
"""Value of ``--torch-loss-mode`` → flags here."""


def modern_flags(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Write PtychoPINN's flags as ours.

    Args:
        command: name of the command; but for ``train`` and ``infer`` only underscores go.
        arguments: what stands after it.

    Returns:
        The arguments as ours, and a sentence for each old flag, once.
    """
    words, new, notes = list(arguments), list[str](), dict[str, str]()
    placed: dict[int, str] = {}
    while words:
        word = words.pop(0)
        if word == "--":
            new += [word, *words]
            break
        old, equals, value = word.partition("=")
        if not old.startswith("--"):
            new.append(word)
            continue
        if equals:
            words.insert(0, value)
        name = old[2:].replace("_", "-")
        if (place := POSITIONS.get(command, {}).get(name)) is not None and words:
            placed[place] = words.pop(0)
            notes[old] = f"{old} is an old name; give the file as an argument"
        elif (gone := name.removeprefix("no-")) in WITHOUT_COUNTERPART.get(command, {}):
            valued = WITHOUT_COUNTERPART[command][gone] or equals or words[:1] in _TRUTHS
            del words[: int(bool(valued))]
            why = f": {DROPPED[REASONS[gone]]}" if gone in REASONS else ""
            notes[old] = f"{old} has no effect any more{why}; leave it out"
        else:
            written = _written(command, name, words, bool(equals))
            new += written
            if written[0].partition("=")[0] not in (old, f"--no-{name}"):
                notes[old] = f"{old} is an old name; use {' '.join(written)}"
    return [placed[place] for place in sorted(placed)] + new, list(notes.values())


def _written(command: str, name: str, words: list[str], equals: bool) -> list[str]:
    """A flag as ours, with its value if that follows an = or changes; takes it from ``words``."""
    following = words[0] if words else ""
    if name == "torch-loss-mode" and following in LOSSES:
        return LOSSES[words.pop(0)]
    name = RENAMED.get(command, {}).get(name.removeprefix("torch-"), name.removeprefix("torch-"))
    if name.replace("-", "_") in _BOOLEANS and following in ("True", "False"):
        return [f"--{name}" if words.pop(0) == "True" else f"--no-{name}"]
    if (name, following) in VALUES:
        return [f"--{name}", VALUES[name, words.pop(0)]]
    return [f"--{name}={words.pop(0)}" if equals else f"--{name}"]


_BOOLEANS = frozenset(
    name
    for model in SECTIONS.values()
    for name, declared in model.model_fields.items()
    if declared.annotation is bool
)
