"""What is said where: notes, progress, times."""

import logging

import pytest

from ptychocli.console import Console, duration, text
from ptychodata.backends import Progress


def _progress(epoch: int, loss: float = 0.5) -> Progress:
    return Progress("train", 30, 60, epoch, 9, {"loss": loss}, 120.0, 75.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.24, "0.2 s"),
        (59.4, "59 s"),
        (75, "1 min 15 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (float("nan"), "?"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (461212.89, "4.612e+05"),
        ([1.5, 2], "1.5, 2"),
        (None, "unknown"),
        (float("nan"), "unknown"),
        (True, "yes"),
        ("counts", "counts"),
    ],
)
def test_figures(value, shown):
    assert text(value) == shown


def test_plain_progress_is_at_most_a_line_every_few_seconds(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Console() as console, console.progress() as report:
        for tick in range(100):
            now = tick / 5
            report(_progress(1 + tick // 20))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "train 2/9   50 %  loss 0.5  120 patterns/s  1 min 15 s left"


def test_the_last_step_is_always_told(capsys):
    with Console() as console, console.progress() as report:
        report(Progress("infer", 60, 60, 1, 1, {}, 50.0, 0.0))
    assert capsys.readouterr().err == "infer  100 %  50 patterns/s\n"


def test_on_a_terminal_a_bar_shows_loss_speed_and_time_left(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Console() as console, console.progress() as report:
        report(_progress(4, loss=0.125))
    shown = capsys.readouterr().err
    for part in ("train 4/9", "loss 0.125", "120 patterns/s", "1 min 15 s left"):
        assert part in shown


def test_quiet_keeps_warnings_and_results(capsys):
    with Console(quiet=True) as console:
        console.note("reading")
        console.warn("few photons")
        console.result("done")
        with console.progress() as report:
            report(_progress(9))
    captured = capsys.readouterr()
    assert captured.err == "warning: few photons\n"
    assert captured.out == "done\n"


def test_json_replaces_the_lines(capsys):
    with Console(as_json=True) as console:
        console.result("done")
        console.finish({"loss": float("nan")})
    assert capsys.readouterr().out.split() == ["{", '"loss":', "null", "}"]


def test_warnings_that_libraries_log_come_out(capsys):
    with Console():
        logging.getLogger("some.library").warning("the %s is odd", "probe")
        logging.getLogger("some.library").info("nothing to see")
    assert capsys.readouterr().err == "warning: the probe is odd\n"
    assert not [h for h in logging.getLogger().handlers if isinstance(h, Console)]
