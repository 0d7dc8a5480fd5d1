"""What an inspection finds, and how it is told to machines."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptychodata.files import dump_json

__all__ = ["Finding", "Inspection", "Severity"]

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """Something to know before training.

    Args:
        name: short identifier, such as ``dead-pixels``.
        severity: ``error`` where training would be meaningless.
        message: what was found, with its figures.
        hint: what to do.
        evidence: name → number, text or list: what the finding rests on.
        flags: what mends it on the command line, alternatives one each, such as
            ``--domain counts``; empty where no flag does.
    """

    name: str
    severity: Severity
    message: str
    hint: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Inspection:
    """Figures and findings of a scan.

    Args:
        name: the scan's name.
        figures: name → number, text, list or table; NaN where unknown.
        findings: errors first.
        mean_pattern: (N, N) mean counts over the patterns in which a pixel is valid.
        photons: (P,) Σ counts of each pattern.
    """

    name: str
    figures: Mapping[str, object]
    findings: tuple[Finding, ...]
    mean_pattern: NDArray[np.float64]
    photons: NDArray[np.float64]

    @property
    def usable(self) -> bool:
        """Whether nothing was found that makes training meaningless."""
        return all(finding.severity != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Name, figures and findings side by side, as strict JSON values; NaN becomes None."""
        findings = [asdict(finding) for finding in self.findings]
        whole = {"name": self.name, **self.figures, "findings": findings}
        plain: dict[str, Any] = json.loads(dump_json(whole))
        return {name: plain[name] for name in whole}
