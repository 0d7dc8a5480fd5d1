r"""What a scientist would check first in a scan, as figures and findings.

Definitions, with I the photon counts (or intensities in the file's unit where no dose is known),
P_m the probe modes and r the positions:

- *probe diameter*: of the circle around the centre of mass of Σ_m|P_m|² that holds 90 % of its
  sum; robust for a ring and for long tails.  A uniform disk of diameter D gives 0.95 D, a Gaussian
  beam 1.8 of its full width at half maximum.
- *probe FWHM*: diameter of a disk of the area where Σ_m|P_m|² exceeds half its maximum.
- *median overlap*: 1 − median distance to the nearest different position / probe diameter.  The
  table *overlap* holds shared areas of disks, defined in ``inspection.overlap``.
- *border power*: share of Σ_m|P_m|² in a frame of N/32 pixels, where a shifted probe wraps.
- *power ratio*: Σ|P|² as the file gives it / mean of Σ I per pattern.
- *DC offset*: from ``[N//2, N//2]`` to the circular mean of the mean pattern, whose coordinate
  along y is N/2π · arg Σ Ī e^{2πi y/N}; it finds a pattern with DC in the corner too.
- *mean pattern*, *dead* and *hot pixels*: from at most 4096 patterns, drawn in runs of 16.
- *dead pixel*: zero in each of them, where the median of the 5×5 neighbourhood is above zero so
  often that this happens by chance once in a million; told from 20 patterns on.
- *hot pixel*: mean above ten times the median of its 5×5 neighbourhood, outside the central N/4
  where the direct beam is.
- *saturated value*: the largest of the file, if it is the limit of its integer dtype or, above
  255, is reached in more than one pattern in a hundred (and five times).
- *outlier position*: one further from its nearest neighbour than ten robust standard deviations
  above the median (and three medians), or five robust standard deviations off the scan's median
  along an axis.  Robust standard deviation = 1.4826 · median absolute deviation.
- *quantum*, *orientation*: in ``inspection.domain`` and ``inspection.orientation``.

A finding is an *error* where training would be meaningless, a *warning* where the result will
suffer, an *info* otherwise.  Whatever is said of all patterns comes from a look at every one, made
once, while the file is read (``ptychodata.survey``).
"""

from .checks import (
    check_orientation,
    check_position_unit,
    check_power,
    orientation_findings,
)
from .checkup import inspect_scan
from .geometry import nearest_px, probe_diameter_px
from .orientation import Orientation, find_orientation
from .overlap import overlap_metrics
from .report import Finding, Inspection, Severity

__all__ = [
    "Finding",
    "Inspection",
    "Orientation",
    "Severity",
    "check_orientation",
    "check_position_unit",
    "check_power",
    "find_orientation",
    "inspect_scan",
    "nearest_px",
    "orientation_findings",
    "overlap_metrics",
    "probe_diameter_px",
]
