"""``hessdiag report``."""

import shutil
import subprocess
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from tests.cli.conftest import Run
from tests.cli.test_bad_input import refused
from tests.show.elements import Elements

TINY = ("--num-samples", 20, "--quiet", "--json")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def reports(run: Run, here: Path, checkpoint: Path) -> list[str]:
    """Make reports of several kinds by their commands, and a run's folder."""
    small = ("--num-probes", 2, "--top-k", 1, "--depth", 4)
    commands = (
        ("spectrum", checkpoint, *small, "--per-layer", *TINY, "spectrum.json"),
        ("sparsity", checkpoint, *TINY, "sparsity.json"),
        ("landscape", checkpoint, "--resolution", 3, *TINY, "landscape.json"),
        ("train", "sensing", "--steps", 4, "--quiet", "--json", "sensing.json"),
    )
    for command in commands:
        outcome = run(*command)
        assert outcome.code == 0, outcome.err
    return [*(str(command[-1]) for command in commands), str(checkpoint.parent)]


def test_reports_of_all_commands_make_a_page(run: Run, here: Path, reports: list[str]):
    outcome = run("report", *reports, "--title", "Mine & yours", "-o", "page.html")
    assert (outcome.code, outcome.out, outcome.err) == (0, "page.html\n", "")
    text = (here / "page.html").read_text("utf-8")
    kinds = [word for word in Elements(text).words if word in ("Spectrum", "Sparsity", "Training")]
    assert kinds == ["Spectrum", "Sparsity", "Training"] * 2
    assert "<h1>Mine &amp; yours</h1>" in text
    assert run("report", *reports, "--title", "Mine & yours", "-o", "again.html").code == 0
    assert (here / "again.html").read_text("utf-8") == text


def test_the_page_is_report_html_unless_said(run: Run, here: Path, checkpoint: Path):
    outcome = run("report", checkpoint.parent, "--quiet")
    assert (outcome.code, outcome.out) == (0, "")
    assert (here / "report.html").exists()


def test_a_report_is_not_overwritten_by_the_page(run: Run, here: Path):
    (here / "s.json").write_text("{}")
    refused(
        run("report", "s.json", "-o", "s.json"), "an output would replace an input.*--output s.json"
    )
    assert (here / "s.json").read_text() == "{}"


def test_a_source_that_is_not_there_leaves_no_page(run: Run, here: Path, checkpoint: Path):
    refused(
        run("report", checkpoint.parent, "missing.json"),
        "missing.json cannot be read.*No such file",
    )
    assert not list(here.iterdir())


def test_no_source_is_a_usage_error(run: Run, here: Path):
    assert run("report").code == 2


@pytest.fixture
def server(here: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the folder on this machine; give its address and the paths that are asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}", asked
        serving.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("theme", [0, 1], ids=["dark", "light"])
def test_a_browser_shows_the_page_without_complaint(
    run: Run, here: Path, reports: list[str], server: tuple[str, list[str]], theme: int
):
    assert run("report", *reports, "--quiet").code == 0
    address, asked = server
    command = (
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=800,2000"),
        *("--enable-logging=stderr", "--v=0", f"--blink-settings=preferredColorScheme={theme}"),
        *(f"--user-data-dir={here / 'profile'}", f"--screenshot={here / 'page.png'}"),
        f"{address}/report.html",
    )
    browser = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in browser.stderr
    assert set(asked) == {"/report.html"}
    with Image.open(here / "page.png") as picture:
        assert (picture.convert("L").getpixel((2, 2)) < 128) == (theme == 0)
