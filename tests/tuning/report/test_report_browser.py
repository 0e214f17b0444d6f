"""A report opened as a file in a browser: sounds stay in step, keys and buttons switch them, nothing else runs."""

import io
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
import pytest
import soundfile
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import create_trial
from PIL import Image
from quell_tuning.report.page import write
from rich.console import Console

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra test")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RATE, SECONDS = 16000, 20.0
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no chromium or google-chrome on the PATH")


@pytest.fixture(scope="module")
def report(tiny_spec: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of the report of two trials, with two clips of a tone."""
    folder = tmp_path_factory.mktemp("report")
    store = FileSystemArtifactStore(folder)
    study = optuna.create_study(study_name=HOSTILE, direction="maximize")

    def keep(content: bytes) -> str:
        (folder / "file").write_bytes(content)
        return upload_artifact(artifact_store=store, file_path=str(folder / "file"), study_or_trial=study)

    def tone(level: float) -> str:
        wav = io.BytesIO()
        samples = level * np.sin(2 * np.pi * 250 * np.arange(int(SECONDS * RATE)) / RATE)
        soundfile.write(wav, samples, RATE, format="WAV", subtype="PCM_16")
        return keep(wav.getvalue())

    png = io.BytesIO()
    Image.new("L", (1378, 790)).save(png, "PNG")
    noisy = {"si_sdr": 5.0}
    clip = {"clip": 0, "label": HOSTILE, "seconds": SECONDS, "scores": noisy, "noisy": tone(0.5), "clean": tone(0.1)}
    made = {"denoised": tone(0.2), "picture": keep(png.getvalue()), "scores": {"si_sdr": 9.0}}
    study.set_user_attr("spec", tiny_spec().resolved())
    study.set_user_attr("noisy", noisy)
    study.set_user_attr("showcase", [clip | {"snr_db": snr_db} for snr_db in (-5.0, 5.0)])
    for score, macs in ((9.0, 2e6), (8.0, 1e6)):
        cost = {"parameters": 1000, "macs_per_s": macs, "latency_ms": 32.0}
        known = {"metrics": {"si_sdr": score}, "cost": cost, "gallery": [made | {"trial": score}, made]}
        study.add_trial(create_trial(value=score, user_attrs=known))
    write(study, store, folder / "report.html", 10, 3, Console(file=io.StringIO()))
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *quiet])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, report: str) -> Iterator[Any]:
    """The report, in a window in which the player is in sight. Whatever goes wrong in it fails the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    wrong: list[str] = []
    opened.on("console", lambda said: wrong.append(said.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    opened.on(
        "request", lambda request: wrong.append(request.url) if request.url[:5] not in ("file:", "data:") else None
    )
    opened.goto(report)
    yield opened
    opened.close()
    assert wrong == []


def state(page: Any) -> dict[str, Any]:
    found = page.locator(".player").evaluate("player => ({...player.dataset})")
    return found | {"position": float(found["position"])}


def test_keys_switch_the_sound_and_keep_the_position(page: Any, wait_for: Callable[..., Any]) -> None:
    page.keyboard.press("Space")
    wait_for(lambda: state(page)["playing"] == "true" and state(page)["position"] > 0.2)
    assert state(page)["heard"] == "denoised 0"
    before = state(page)["position"]
    for key, sound in (("2", "denoised"), ("3", "clean"), ("1", "noisy"), ("d", "denoised"), ("c", "clean")):
        page.keyboard.press(key)
        now = state(page)
        assert (now["sound"], now["playing"]) == (sound, "true")
        assert before <= now["position"] < SECONDS  # goes on, and does not begin anew
        assert page.locator(".sounds [aria-pressed=true]").get_attribute("data-sound") == sound
        before = now["position"]
    wait_for(lambda: state(page)["position"] > before + 0.2)
    page.keyboard.press("Space")
    paused = state(page)
    assert paused["playing"] == "false"
    page.wait_for_timeout(200)
    assert state(page)["position"] == paused["position"]


def test_arrows_seek_and_choose_clips_and_another_trial_keeps_the_position(page: Any) -> None:
    page.locator(".sounds .noisy").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert state(page)["position"] == pytest.approx(2.0)
    page.keyboard.press("ArrowLeft")
    assert state(page)["position"] == pytest.approx(1.0)
    page.locator(".player select").select_option("1")
    assert (state(page)["heard"], state(page)["position"]) == ("denoised 1", pytest.approx(1.0))
    page.locator(".sounds .clean").click()
    page.keyboard.press("ArrowDown")
    assert (state(page)["clip"], state(page)["sound"], state(page)["position"]) == ("1", "clean", 0.0)
    assert page.locator("article.clip:visible h3").text_content().endswith(" at 5 dB SNR")
    assert page.locator("article.clip img:visible").count() == 1


def test_a_clip_that_is_not_looped_ends_and_can_be_played_again(page: Any, wait_for: Callable[..., Any]) -> None:
    page.locator(".loop input").uncheck()
    page.locator(".player input[type=range]").fill(str(SECONDS - 0.3))
    assert state(page)["position"] == pytest.approx(SECONDS - 0.3)
    page.locator(".play").click()
    wait_for(lambda: state(page)["playing"] == "false" and state(page)["position"] == 0)
    page.locator(".play").click()
    wait_for(lambda: state(page)["playing"] == "true" and state(page)["position"] > 0)


def test_a_click_on_a_column_sorts_by_it(page: Any) -> None:
    rows = page.locator(".sortable tbody:not(.fixed) tr:first-child th")
    assert rows.all_text_contents() == ["0", "1"]
    page.locator("#leaderboard th button", has_text="M MAC/s").click()
    assert rows.all_text_contents() == ["1", "0"]
    page.locator("#leaderboard th button", has_text="M MAC/s").click()
    assert rows.all_text_contents() == ["0", "1"]


@pytest.mark.parametrize("width", [1280, 480])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_without_javascript_each_sound_has_its_own_player(browser: Any, report: str) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(report)
    assert page.locator("audio:visible").count() == 2 * (2 + 2)
    assert page.locator(".player:visible").count() == 0
    page.close()
