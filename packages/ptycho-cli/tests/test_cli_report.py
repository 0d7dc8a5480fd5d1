"""``report.html``: whole in itself, readable by a parser and by a browser."""

import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

VOID = {"img", "meta", "input", "link", "br", "hr"}


class Page(HTMLParser):
    """Elements by name, and text; every element that opens must close."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def picture(uri):
    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.fixture(autouse=True)
def reports(monkeypatch):
    """Write reports, as the command does unless told otherwise."""
    monkeypatch.delenv("PTYCHO_REPORT", raising=False)


@pytest.fixture
def report(trained, scan, tmp_path, ptycho):
    """The report of a scan whose name would be markup."""
    odd = scan.rename(scan.with_name("a<b>&{{phase}}.npz"))
    folder = tmp_path / "recon"
    outcome = ptycho(
        *("infer", trained, odd, "--output-dir", folder, "--split-half", "--max-r-factor", 0.01)
    )
    assert outcome.code == 7, outcome.err
    return folder / "report.html"


def test_it_holds_everything_and_needs_nothing(report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    images = {attributes["alt"]: attributes for attributes in page.all("img")}
    assert set(images) == {
        *("amplitude of the object", "phase of the object", "Probe", "Course"),
        *("Positions and residuals", "Correlation of the two halves", "Worst patterns"),
    }
    for attributes in images.values():
        assert min(picture(attributes["src"]).shape[:2]) > 10
    plain = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//|@import|url\(", plain)
    assert not any({"src", "href"} & a.keys() for tag, a in page.elements if tag != "img")
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv")]
    assert "default-src 'none'" in policy
    words = " ".join(page.words)
    for told in (
        *("a<b>&{{phase}}", "25 patterns of 32 × 32", "r_factor", "amplitude_ssim", "not reached"),
        *("Reasons for doubt", "nothing in common", "--max-r-factor: expected R of at most 0.01"),
        *("inference.merge", "evaluation.split_half", "flag", "bundle", "data.0.sha256"),
    ):
        assert told in words, told
    assert set(re.findall(r".{5}\{\{", plain)) == {"&amp;{{"}


def test_its_pictures_show_the_object(report, tmp_path):
    page = Page(report.read_text(encoding="utf-8"))
    [amplitude] = [a for a in page.all("img") if a.get("id") == "amplitude"]
    pixels = picture(amplitude["src"])
    assert pixels.shape[2] == 4  # clear where nothing is known
    lit = pixels[pixels[..., 3] > 0]
    assert len(lit) > 400
    assert np.ptp(lit[:, :3].astype(int)) <= 3  # the stub paints a constant
    viewer = next(a for tag, a in page.elements if a.get("id") == "viewer")
    assert float(viewer["data-pixel-nm"]) == pytest.approx(20)


def test_it_maps_where_patches_disagree(monkeypatch, trained, scan, tmp_path, ptycho):
    import ptychostub

    blind = ptychostub.StubBackend.infer

    def infer(*arguments):
        image = blind(*arguments)
        spread = np.linspace(0, 0.5, image.obj.size, dtype=np.float32).reshape(image.obj.shape)
        return replace(image, disagreement=spread)

    monkeypatch.setattr(ptychostub.StubBackend, "infer", infer)
    folder = tmp_path / "r"
    outcome = ptycho("infer", trained, scan, "--output-dir", folder, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["disagreement"]["patch_spread_median"] == pytest.approx(0.25, abs=0.01)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    [shown] = [a["src"] for a in page.all("img") if a["alt"] == "Disagreement of patches"]
    assert len(np.unique(picture(shown).reshape(-1, 4), axis=0)) > 100
    with np.load(folder / "reconstruction.npz") as found:
        assert found["disagreement"].max() == 0.5


def test_it_can_be_left_out(trained, scan, tmp_path, ptycho):
    outcome = ptycho("infer", trained, scan, "--output-dir", tmp_path / "r", "--no-report")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "r" / "report.html").exists()
    assert (tmp_path / "r" / "reconstruction.npz").exists()


CHECK = """
<script>
addEventListener("load", () => setTimeout(() => {
  const shown = () => [...document.querySelectorAll(".stage img")]
    .filter(i => getComputedStyle(i).display !== "none").map(i => i.id).join();
  const told = [shown()];
  document.querySelector("input[value=phase]").click();
  told.push(shown());
  const stage = document.querySelector(".stage"), phase = document.getElementById("phase");
  const before = phase.style.transform;
  stage.dispatchEvent(new WheelEvent("wheel", {deltaY: -200, clientX: 200, clientY: 300}));
  told.push(phase.style.transform !== before);
  told.push([...document.images].every(i => i.naturalWidth > 0));
  told.push(/nm|µm/.test(document.querySelector(".scale").textContent));
  document.title = "CHECKED " + told.join(" ");
}, 100));
</script>
"""


@pytest.mark.integration
def test_a_browser_shows_it_and_its_switch_works(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("there is no chromium here")
    checked = tmp_path / "checked.html"
    text = report.read_text(encoding="utf-8")
    checked.write_text(text.replace("</body>", f"{CHECK}</body>"), encoding="utf-8")
    run = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--virtual-time-budget=3000", "--enable-logging=stderr", "--dump-dom"),
            *(f"--user-data-dir={tmp_path / 'profile'}", checked.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "<title>CHECKED amplitude phase true true true</title>" in run.stdout
    assert "CONSOLE" not in run.stderr, run.stderr
