"""The dashboard in a browser: the study opens, audio plays and seeks, pictures load, nothing is blocked."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import soundfile
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from quell_tuning.storage.backends import open_storage
from quell_tuning.trials.ranking import best_trials

PASSWORD = "open sesame"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",  # in a container, as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 2.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium that is installed on this machine."""
    sync = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("QUELL_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: {', '.join(BROWSERS)} on PATH, or QUELL_BROWSER")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a feasible best trial and a better infeasible one, each with a recording, a picture and a page."""
    folder = tmp_path_factory.mktemp("runs")
    plots = pytest.importorskip("matplotlib.image")
    rate = 16_000
    soundfile.write(folder / "denoised.wav", 0.1 * np.sin(np.arange(SECONDS * rate) / 10), rate, subtype="PCM_16")
    plots.imsave(folder / "clip.png", np.random.default_rng(0).uniform(size=(32, 64)))
    (folder / "page.html").write_text("<script>document.title = 'owned'</script>")
    (folder / "artifacts").mkdir()
    store = FileSystemArtifactStore(folder / "artifacts")
    storage = open_storage(f"sqlite:///{folder / 'quell.db'}", create=True)
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    study.set_user_attr("spec", {"study": {"score": "pesq"}})
    for value, loss in ((2.0, -1.0), (3.0, 1.0)):
        trial = study.ask()
        for key, attribute in {"metrics": {"pesq": value}, "by_snr": {"5": {"pesq": value}}, "cost": {}}.items():
            trial.set_user_attr(key, attribute)
        trial.suggest_float("dropout", 0, 1)
        trial.set_constraint("si_sdr", loss)
        for name in ("denoised.wav", "clip.png", "page.html"):
            upload_artifact(artifact_store=store, file_path=str(folder / name), study_or_trial=trial)
        study.tell(trial, value)
    storage.close()
    return folder


@pytest.fixture(scope="module")
def url(browser: object, runs: Path) -> Iterator[str]:
    """The address of the study's page, as `quell dashboard` prints it."""
    command = [sys.executable, "-m", "quell_tuning.cli", "dashboard", "s", "--port", "0", "--runs", str(runs)]
    environment = os.environ | {"QUELL_DASHBOARD_PASSWORD": PASSWORD}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    """A session with the password; it has the dashboard's scripts in its cache after the first page."""
    context = browser.new_context(http_credentials={"username": "anybody", "password": PASSWORD})
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def page(context: Any) -> Iterator[Any]:
    """A new page; the browser's errors are in `page.errors`."""
    page = context.new_page()
    page.errors = []
    page.on("console", lambda line: page.errors.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    yield page
    page.close()


def test_a_wrong_password_is_refused(browser: Any, url: str) -> None:
    for credentials in (None, {"username": "anybody", "password": "sesame"}):
        context = browser.new_context(http_credentials=credentials)
        assert context.request.get(url).status == 401
        context.close()


def test_the_study_opens_with_its_feasible_best_trial(page: Any, url: str) -> None:
    page.goto(url)
    page.get_by_text("Best Trial (number=0)").wait_for()
    assert page.errors == []


def test_a_trials_audio_plays_and_seeks_and_its_picture_loads(page: Any, url: str) -> None:
    page.goto(f"{url}/trials?numbers=0")
    page.locator("audio").wait_for()
    time, position, duration = page.locator("audio").evaluate(
        """async audio => {
            await audio.play();
            while (audio.currentTime === 0) await new Promise(done => setTimeout(done, 20));
            const played = audio.currentTime;
            audio.pause();
            audio.currentTime = audio.duration / 2;
            await new Promise(done => audio.addEventListener("seeked", done, {once: true}));
            return [played, audio.currentTime, audio.duration];
        }"""
    )
    assert 0 < time < SECONDS
    assert (position, duration) == (SECONDS / 2, SECONDS)
    picture = page.locator("img[alt='clip.png']")
    assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") == 64
    assert page.errors == []


def test_an_html_artifact_is_downloaded_and_never_opened(page: Any, url: str) -> None:
    page.goto(f"{url}/trials?numbers=0")
    page.get_by_text("page.html").wait_for()
    link = page.locator("a[href*='/artifacts/'][download='page.html']").get_attribute("href")
    with page.expect_download() as download:
        page.evaluate("address => window.location = address", link)
    assert download.value.suggested_filename == "page.html"
    assert page.title() != "owned"


def test_a_note_is_saved_and_shown(page: Any, url: str) -> None:
    page.goto(f"{url}/trials?numbers=1")
    page.locator("button:has(svg[data-testid=EditIcon])").click()
    page.locator("textarea").first.fill("a **good** one")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Success to save the note").wait_for()
    page.reload()
    assert page.locator("strong").inner_text() == "good"
    assert page.errors == []


@pytest.fixture(scope="module")
def tuned_url(browser: object, tuned: Path) -> Iterator[str]:
    """The page of a study with trained trials."""
    command = [sys.executable, "-m", "quell_tuning.cli", "dashboard", "tiny", "--port", "0", "--read-only"]
    with subprocess.Popen(command, cwd=tuned, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def test_the_best_trial_of_a_tuned_study_has_tables_audio_and_pictures(
    browser: Any, tuned: Path, tuned_url: str
) -> None:
    storage = open_storage(f"sqlite:///{tuned / 'runs' / 'quell.db'}")
    study = optuna.load_study(study_name="tiny", storage=storage)
    best = best_trials(study)[0].number
    noisy = study.user_attrs["noisy_by_snr"]
    levels = sorted(noisy, key=float)
    storage.close()
    page = browser.new_page()
    page.goto(tuned_url)
    page.get_by_text(f"Best Trial (number={best})").wait_for()
    page.get_by_role("link", name="Details").click()
    page.get_by_role("heading", name=f"Trial {best} of tiny").wait_for()
    rows = page.locator("tr").evaluate_all("rows => rows.map(row => row.cells[0].innerText.trim())")
    assert [row for row in rows if row in levels] == levels * len(noisy[levels[0]])  # a table for each metric
    page.locator("audio").nth(4 * 3 - 1).wait_for()  # noisy, denoised and clean of four clips
    loaded = """audio => new Promise(done => {
        if (audio.readyState) done(audio.duration);
        audio.addEventListener("loadedmetadata", () => done(audio.duration));
    })"""
    assert all(audio.evaluate(loaded) > 1 for audio in page.locator("audio").all())
    pictures = page.locator("img[src*='/artifacts/']").all()
    widths = [picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") for picture in pictures]
    assert len(widths) >= 4 and min(widths) > 1000
    page.close()
