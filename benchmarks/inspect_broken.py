"""Break a good scan one way at a time, and see whether `ptycho inspect` catches it.

    python benchmarks/inspect_broken.py ../shared/data/siemens-star-small.npz.bz2

Prints a table in Markdown: what was done, what was found beyond what is found in the scan itself
(errors and warnings, with the first flag that would mend it), and the processor time.  Ends with
exit code 1 if something was not caught.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ptychodata.contracts import Scan
from ptychodata.formats import read
from ptychodata.inspection import Finding, inspect_scan
from ptychodata.inspection.orientation import reoriented


def turned(*flags: str) -> Callable[[Scan], Scan]:
    """Break a scan by what the flags do."""

    def turn(scan: Scan) -> Scan:
        patterns, positions = reoriented(flags, scan.diffraction[:], scan.positions_px)
        return replace(scan, diffraction=patterns, positions_px=positions)

    return turn


def corner(scan: Scan) -> Scan:
    """Move DC to the corner."""
    return replace(scan, diffraction=np.fft.ifftshift(scan.diffraction[:], axes=(1, 2)))


def other_domain(scan: Scan) -> Scan:
    """Take counts for amplitudes, or amplitudes for counts."""
    if scan.domain == "counts":
        return replace(scan, domain="amplitude")
    return replace(scan, domain="counts")


def amplitude_as_counts(scan: Scan) -> Scan:
    """Store the amplitudes and call them counts."""
    return replace(scan, diffraction=scan.amplitude(), domain="counts")


def outlier(scan: Scan) -> Scan:
    """Put one position far away."""
    positions = scan.positions_px.copy()
    positions[len(positions) // 3] += 40 * np.ptp(positions, axis=0)
    return replace(scan, positions_px=positions)


def shuffled(scan: Scan) -> Scan:
    """Give each pattern the position of another."""
    order = np.random.default_rng(0).permutation(len(scan))
    return replace(scan, positions_px=scan.positions_px[order])


def lagging(by: int) -> Callable[[Scan], Scan]:
    """Take each pattern to the position of the one that many frames later."""

    def lag(scan: Scan) -> Scan:
        return replace(scan, diffraction=np.roll(scan.diffraction[:], by, axis=0))

    return lag


def metres(scan: Scan) -> Scan:
    """Give positions in metres, at 10 nm a pixel, for pixels."""
    return replace(scan, positions_px=scan.positions_px * 1e-8)


def thousandfold(scan: Scan) -> Scan:
    """Trust a probe a thousand times weaker than the patterns."""
    probe = scan.photon_probe * np.float32(np.sqrt(1e-3))
    return replace(scan, probe=probe, probe_power="absolute")


BROKEN: dict[str, tuple[Callable[[Scan], Scan], str]] = {
    "patterns transposed": (turned("--transpose"), "orientation"),
    "patterns flipped in y": (turned("--flip-y"), "orientation"),
    "patterns flipped in x": (turned("--flip-x"), "orientation"),
    "patterns turned by 90°": (turned("--transpose", "--flip-x"), "orientation"),
    "patterns turned by 180°": (turned("--flip-y", "--flip-x"), "half-turn"),
    "x and y of the positions swapped": (turned("--swap-xy"), "orientation"),
    "x of the positions negated": (turned("--negate-x"), "orientation"),
    "x and y of the positions negated": (turned("--negate-y", "--negate-x"), "half-turn"),
    "DC in the corner": (corner, "dc-not-centred"),
    "amplitude passed as counts": (amplitude_as_counts, "domain"),
    "counts passed as amplitude": (other_domain, "domain"),
    "one outlier position": (outlier, "outlier-positions"),
    "positions shuffled": (shuffled, "shuffled-positions"),
    "patterns one frame late": (lagging(1), "frame-lag"),
    "patterns one frame early": (lagging(-1), "frame-lag"),
    "metres given as pixels": (metres, "one-position"),
    "a probe 1000 times too weak, trusted": (thousandfold, "power-mismatch"),
}
"""What is done → how, and the finding that must tell."""


def told(finding: Finding) -> str:
    """A finding on one line, with the first flag that mends it."""
    flag = f" → `{finding.flags[0]}`" if finding.flags else ""
    return f"{finding.severity}: {finding.name}{flag}"


def main() -> None:
    """Break, inspect, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    scan = read(parser.parse_args().scan)
    before = {f.name for f in inspect_scan(scan).findings if f.severity != "info"}
    print("| broken | caught | found | CPU time/s |\n|---|---|---|---|")
    print(f"| not at all | | {', '.join(sorted(before)) or 'nothing'} | |")
    missed = 0
    for name, (spoil, expected) in BROKEN.items():
        broken = spoil(scan)
        start = time.process_time()
        findings = inspect_scan(broken).findings
        taken = time.process_time() - start
        new = [f for f in findings if f.severity != "info" and f.name not in before]
        caught = expected in [f.name for f in new]
        missed += not caught
        what = "; ".join(map(told, new)) or "nothing"
        print(f"| {name} | {'yes' if caught else 'NO'} | {what} | {taken:.1f} |", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
