"""``train`` and ``infer``, driven with a stub backend."""

import json
import os
import signal

import numpy as np
import pytest
import yaml
from PIL import Image

from ptychodata.bundle import read_bundle

RECORDS = {"config.resolved.yaml", "events.jsonl", "provenance.json", "run.log"}


def test_train_writes_the_run_directory(trained):
    assert {path.name for path in trained.iterdir()} == RECORDS | {
        "wts.h5.zip",
        "metrics.csv",
        "checkpoints",
    }
    assert read_bundle(trained).history["train_loss"] == [1.0, 0.5]


def test_train_records_where_it_came_from(trained, scan):
    from ptychodata.files import sha256_of

    origin = json.loads((trained / "provenance.json").read_text())
    assert origin["data"] == [{"path": str(scan), "sha256": sha256_of(scan)}]
    assert origin["seeds"] == {"seed": 42, "subsample_seed": 0}
    assert origin["machine"]["cpu_count"] == os.cpu_count()
    assert "ptycho-cli" in origin["versions"]
    assert origin["command"].startswith("ptycho")
    lines = (trained / "events.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["phase"] == "train"]
    assert [event["epoch"] for event in events] == [1, 2]
    assert events[0]["metrics"] == {"loss": 1.0}
    assert "25 patterns of 32×32" in (trained / "run.log").read_text()


def test_resolved_settings_give_the_same_run(trained, scan, tmp_path, ptycho):
    resolved = trained / "config.resolved.yaml"
    settings = yaml.safe_load(resolved.read_text())
    assert settings["training"]["epochs"] == 2
    assert settings["model"]["N"] == 32
    again = tmp_path / "again"
    outcome = ptycho(
        "train", scan, "--backend", "stub", "--config", resolved, "--output-dir", again
    )
    assert outcome.code == 0, outcome.err
    assert (again / "wts.h5.zip").read_bytes() == (trained / "wts.h5.zip").read_bytes()


def test_streams(scan, tmp_path, ptycho):
    argv = ("train", scan, "--backend", "stub", "--epochs", 1, "--output-dir")
    told = ptycho(*argv, tmp_path / "told", "--progress")
    assert f"bundle: {tmp_path / 'told' / 'wts.h5.zip'}" in told.out
    assert "25 patterns" in told.err
    assert "loss" in told.err
    quiet = ptycho(*argv, tmp_path / "quiet", "--quiet")
    assert quiet.err == ""
    assert "bundle:" in quiet.out
    machine = ptycho(*argv, tmp_path / "json", "--json").json
    assert machine["bundle"] == str(tmp_path / "json" / "wts.h5.zip")
    assert machine["metrics"] == {"train_loss": 1.0}


def test_a_subset_is_announced(scan, tmp_path, ptycho):
    outcome = ptycho(
        *("train", scan, "--backend", "stub", "--epochs", 1, "--output-dir", tmp_path / "r"),
        *("--n-subsample", 20, "--n-groups", 6),
    )
    assert outcome.code == 0, outcome.err
    assert "20 of 25 patterns" in outcome.err
    assert "6 groups per epoch" in outcome.err


def test_architecture_help_lists_networks(scan, tmp_path, ptycho):
    outcome = ptycho(
        *("train", scan, "--backend", "stub", "--architecture", "help"),
        *("--output-dir", tmp_path / "r"),
    )
    assert outcome.code == 0
    assert "unrolled" in outcome.out
    assert "A constant." in outcome.out
    assert not (tmp_path / "r").exists()


def test_several_scans_train_together(write_scan, tmp_path, ptycho):
    scans = [write_scan("a.npz"), write_scan("b.npz")]
    outcome = ptycho("train", *scans, "--backend", "stub", "--output-dir", tmp_path / "r")
    assert outcome.code == 0, outcome.err
    assert "50 patterns" in outcome.err
    assert len(read_bundle(tmp_path / "r").probes) == 2


def test_scans_of_two_sizes_are_left_to_the_backend(arrays, write_scan, tmp_path, ptycho):
    wide = np.pad(arrays["diffraction"], ((0, 0), (4, 4), (4, 4)))
    probe = np.pad(arrays["probeGuess"], 4)
    scans = [write_scan("a.npz"), write_scan("b.npz", diffraction=wide, probeGuess=probe)]
    outcome = ptycho("train", *scans, "--backend", "stub", "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    bundle = read_bundle(tmp_path / "run")
    assert [probe.shape[-1] for probe in bundle.probes] == [32, 40]
    assert bundle.config["model"]["N"] == 40


def test_infer_writes_image_pictures_and_scores(trained, scan, tmp_path, ptycho):
    folder = tmp_path / "recon"
    outcome = ptycho("infer", trained, scan, "--output-dir", folder)  # conftest: no report
    assert outcome.code == 0, outcome.err
    results = {"reconstruction.npz", "product.h5", "amplitude.png", "phase.png", "metrics.json"}
    assert {path.name for path in folder.iterdir()} == results | RECORDS
    with np.load(folder / "reconstruction.npz", allow_pickle=False) as image:
        assert set(image) == {
            *("object", "coverage", "origin_yx_px", "pixel_size_m", "positions_px", "probe")
        }
        assert image["object"].dtype == np.complex64
        assert image["object"].shape == image["coverage"].shape == (52, 52)
        assert image["positions_px"].shape == (25, 2)
        assert float(image["pixel_size_m"]) == 2e-8
    for picture in ("amplitude.png", "phase.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"residuals", "scores"} <= set(metrics)
    assert "amplitude_ssim" in outcome.out
    assert "r_factor" in outcome.out


def test_infer_takes_the_bundle_file_and_a_scan_without_truth(
    trained, write_scan, tmp_path, ptycho
):
    scan = write_scan("plain.npz", objectGuess=None, object_pixel_m=None)
    outcome = ptycho(
        *("infer", trained / "wts.h5.zip", scan, "--output-dir", tmp_path / "r"),
        *("--tiff", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "r" / "amplitude.tif").read_bytes()[:2] in (b"II", b"MM")
    assert "scores" not in outcome.json
    assert not (tmp_path / "r" / "product.h5").exists()
    assert "no product.h5" in outcome.err
    assert outcome.json["residuals"]["r_factor"] > 0


def test_a_known_object_that_does_not_fit_costs_the_score_only(
    trained, arrays, write_scan, tmp_path, ptycho
):
    scan = write_scan("small.npz", objectGuess=arrays["objectGuess"][:8, :8])
    outcome = ptycho("infer", trained, scan, "--output-dir", tmp_path / "r", "--json")
    assert outcome.code == 0, outcome.err
    assert "scores" not in outcome.json
    assert "known object" in outcome.err


def test_several_scans_write_a_folder_each(trained, write_scan, tmp_path, ptycho):
    scans = [write_scan("a.npz"), write_scan("b.npz")]
    outcome = ptycho("infer", trained, *scans, "--output-dir", tmp_path / "r", "--json")
    assert outcome.code == 0, outcome.err
    assert [found["scan"] for found in outcome.json["scans"]] == [str(path) for path in scans]
    assert all((tmp_path / "r" / name / "reconstruction.npz").exists() for name in "ab")


def test_scans_of_one_name_are_refused(trained, scan, tmp_path, ptycho):
    outcome = ptycho("infer", trained, scan, scan, "--output-dir", tmp_path / "r")
    assert outcome.code == 3
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("command", ["train", "infer"])
def test_a_result_is_not_overwritten_unless_forced(command, trained, scan, tmp_path, ptycho):
    folder = tmp_path / "out"
    argv = {
        "train": ("train", scan, "--backend", "stub", "--epochs", 1, "--output-dir", folder),
        "infer": ("infer", trained, scan, "--output-dir", folder),
    }[command]
    result = folder / {"train": "wts.h5.zip", "infer": "reconstruction.npz"}[command]
    assert ptycho(*argv).code == 0
    before = result.read_bytes()
    outcome = ptycho(*argv)
    assert outcome.code == 3
    assert "--force" in outcome.err
    assert "--output-dir" in outcome.err
    assert result.read_bytes() == before
    assert ptycho(*argv, "--force").code == 0


def test_a_folder_with_other_things_is_accepted(scan, tmp_path, ptycho):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    outcome = ptycho(
        "train", scan, "--backend", "stub", "--epochs", 1, "--output-dir", tmp_path / "notes"
    )
    assert outcome.code == 0
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(("seed", "code"), [(666, 7), (667, 1)])
def test_a_failed_training_leaves_no_result(seed, code, scan, tmp_path, ptycho):
    folder = tmp_path / "run"
    outcome = ptycho(
        *("train", scan, "--backend", "stub", "--seed", seed, "--probe", "file"),
        *("--output-dir", folder),
    )
    assert outcome.code == code
    assert {path.name for path in folder.iterdir()} == {"run.log"}


def test_first_interrupt_saves_and_stops(scan, tmp_path, ptycho):
    outcome = ptycho(
        *("train", scan, "--backend", "stub", "--seed", 668, "--epochs", 9),
        *("--output-dir", tmp_path / "r"),
    )
    assert outcome.code == 130
    assert "saving" in outcome.err
    assert read_bundle(tmp_path / "r").history["train_loss"] == [1.0]


def test_resume_auto_starts_goes_on_and_is_finished(scan, tmp_path, ptycho):
    folder = tmp_path / "r"
    argv = ("train", scan, "--backend", "stub", "--epochs", 3, "--output-dir", folder)
    argv = (*argv, "--resume", "auto")
    stopped = ptycho(*argv, "--seed", 668)
    assert stopped.code == 130
    assert "no checkpoint" in stopped.err
    assert "starting afresh" in stopped.err
    assert json.loads((folder / "provenance.json").read_text())["interrupted"]
    resumed = ptycho(*argv)
    assert resumed.code == 0, resumed.err
    assert "continuing from" in resumed.err
    assert read_bundle(folder).history["train_loss"] == [1.0, 1 / 2, 1 / 3]
    before = (folder / "wts.h5.zip").stat().st_mtime_ns
    finished = ptycho(*argv, "--json")
    assert finished.code == 0
    assert finished.json["finished"]
    assert (folder / "wts.h5.zip").stat().st_mtime_ns == before


def test_resume_takes_a_run_folder_or_a_checkpoint(scan, tmp_path, ptycho):
    argv = ("train", scan, "--backend", "stub", "--epochs", 3, "--output-dir")
    assert ptycho(*argv, tmp_path / "r", "--seed", 668).code == 130
    for number, path in enumerate([tmp_path / "r", tmp_path / "r" / "checkpoints" / "last.ckpt"]):
        folder = tmp_path / str(number)
        outcome = ptycho(*argv, folder, "--resume", path)
        assert outcome.code == 0, outcome.err
        assert "continuing from" in outcome.err
        assert len(read_bundle(folder).history["train_loss"]) == 3
    lost = ptycho(*argv, tmp_path / "new", "--resume", tmp_path / "nowhere")
    assert lost.code == 3
    assert lost.err.startswith("error: --resume")
    assert not (tmp_path / "new").exists()


def test_starting_over_an_unfinished_run_is_told(scan, tmp_path, ptycho):
    argv = ("train", scan, "--backend", "stub", "--epochs", 3, "--output-dir", tmp_path / "r")
    ptycho(*argv, "--seed", 668)
    (tmp_path / "r" / "wts.h5.zip").unlink()
    outcome = ptycho(*argv)
    assert outcome.code == 0
    assert "warning: starting afresh over the checkpoint of an unfinished run" in outcome.err


def test_a_run_whose_folder_vanishes_is_told(monkeypatch, scan, tmp_path, ptycho):
    import shutil

    import ptychostub

    usual = ptychostub._progress

    def lose(*arguments: object) -> object:
        shutil.rmtree(tmp_path / "r")
        return usual(*arguments)

    monkeypatch.setattr(ptychostub, "_progress", lose)
    outcome = ptycho("train", scan, "--backend", "stub", "--output-dir", tmp_path / "r")
    assert outcome.code == 3
    assert "--resume auto" in outcome.err


def test_workers_beside_determinism_are_warned_of(scan, tmp_path, ptycho):
    argv = ("train", scan, "--backend", "stub", "--epochs", 1, "--num-workers", 2, "--output-dir")
    assert "warning: --deterministic with" in ptycho(*argv, tmp_path / "a").err
    assert "warning" not in ptycho(*argv, tmp_path / "b", "--no-deterministic").err


def test_the_original_s_command_lines_work_and_warn(scan, tmp_path, ptycho):
    told = ptycho(
        *("train", "--train_data_file", scan, "--output_dir", tmp_path / "r", "--max_epochs", 2),
        *("--n_images", 9, "--gridsize", 1, "--batch_size", 3, "--device", "cpu", "--quiet"),
        *("--disable_mlflow", "--backend", "stub"),
    )
    assert told.code == 0, told.err
    for flag in ("train_data_file", "output_dir", "max_epochs", "n_images", "device"):
        assert told.err.count(f"warning: --{flag} ") == 1
    settings = yaml.safe_load((tmp_path / "r" / "config.resolved.yaml").read_text())
    assert settings["training"]["epochs"] == 2
    assert settings["training"]["n_groups"] == 9
    assert settings["execution"]["accelerator"] == "cpu"
    told = ptycho(
        *("infer", "--test_data", scan, "--model_path", tmp_path / "r", "--inference-batch-size"),
        *(4, "--output_dir", tmp_path / "i"),
    )
    assert told.code == 0, told.err
    settings = yaml.safe_load((tmp_path / "i" / "config.resolved.yaml").read_text())
    assert settings["inference"]["batch_size"] == 4


@pytest.fixture
def foreground():
    """As in a terminal: a shell has its background jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_second_interrupt_kills(foreground, monkeypatch, scan, tmp_path, ptycho):
    import ptychostub

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ptychostub, "_progress", interrupted)
    outcome = ptycho("train", scan, "--backend", "stub", "--output-dir", tmp_path / "r")
    assert outcome.code == 130
    assert not (tmp_path / "r" / "wts.h5.zip").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("backend", "code", "told"),
    [("jax", 2, "stub"), ("broken", 5, "does not load"), ("tf", 5, "ptycho-cli[tf]")],
)
def test_backends_that_cannot_be_used(backend, code, told, monkeypatch, scan, tmp_path, ptycho):
    from ptychodata import backends

    installed = backends.installed_backends()
    monkeypatch.setattr(
        backends,
        "installed_backends",
        lambda: {name: found for name, found in installed.items() if name != "tf"},
    )
    outcome = ptycho("train", scan, "--backend", backend, "--output-dir", tmp_path / "r")
    assert outcome.code == code
    assert told in outcome.err
    assert not (tmp_path / "r").exists()


def test_a_network_the_backend_lacks_is_a_usage_error(scan, tmp_path, ptycho):
    outcome = ptycho(
        *("train", scan, "--backend", "stub", "--architecture", "transformer"),
        *("--output-dir", tmp_path / "r"),
    )
    assert outcome.code == 2
    assert "--architecture" in outcome.err
    assert "unrolled" in outcome.err


def test_a_network_of_another_backend_is_said_to_be_its_own(scan, tmp_path, ptycho):
    outcome = ptycho(
        *("train", scan, "--backend", "stub", "--architecture", "fno"),
        *("--output-dir", tmp_path / "run"),
    )
    assert outcome.code == 2
    assert "found 'fno', which --backend torch alone has" in outcome.err


def test_previews_are_drawn_and_stale_ones_go(scan, tmp_path, ptycho, monkeypatch):
    monkeypatch.delenv("PTYCHO_PREVIEW_EVERY")
    folder = tmp_path / "run"
    argv = ("train", scan, "--backend", "stub", "--output-dir", folder, "--force")
    for flags, names in (
        (("--epochs", 12), ["epoch_001.png", "epoch_006.png", "epoch_011.png"]),
        (("--epochs", 3, "--preview-every", 2), ["epoch_001.png", "epoch_003.png"]),
    ):
        assert ptycho(*argv, *flags).code == 0
        assert sorted(path.name for path in (folder / "preview").iterdir()) == names
    with Image.open(folder / "preview" / "epoch_001.png") as picture:
        assert picture.width > 1.5 * picture.height > 300
        assert np.ptp(np.asarray(picture)) > 100


def test_a_region_for_the_zero_of_the_phase(trained, scan, tmp_path, ptycho):
    argv = ("infer", trained, scan, "--output-dir", tmp_path / "r", "--phase-zero")
    assert ptycho(*argv, "20:30,16:36").code == 0
    for region, told in (
        ("100:120,16:36", "rows 16 to 36 and columns 16 to 36"),
        ("20-30,16-36", "text like 10:40,20:60"),
    ):
        outcome = ptycho(*argv, region, "--force")
        assert outcome.code == 3
        assert told in outcome.err
