"""The report: a page that loads nothing, runs no text of the study, and shows what the study holds."""

import base64
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import soundfile
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image
from quell_tuning.artifacts.artifact_store import id_of
from quell_tuning.errors import TuningError
from quell_tuning.optuna_private import storage_of
from quell_tuning.report.content import Content
from quell_tuning.report.formatting import MINUS
from quell_tuning.report.media import gallery
from quell_tuning.report.page import check, render, write
from quell_tuning.report.plots import by_snr, cost, importance, plots
from quell_tuning.trials.ranking import best_trials
from rich.console import Console

from quell.config import DenoiserConfig, TrainingConfig

NOISY = {"si_sdr": 5.0, "pesq": 1.5, "stoi": 0.7}
QUIET = Console(file=io.StringIO())
VOID = ("meta", "img", "input", "path")
HOSTILE = "<script>alert(1)</script>\"'&$x^{<b>"
KEYS = ("noisy", "clean", "denoised", "picture")
DISTRIBUTIONS = {"depth": IntDistribution(2, 6), "dropout": FloatDistribution(0, 0.3)}


class Page(HTMLParser):
    """A parsed page: tags with attributes, scripts and styles, text, tables. All tags must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self.read = ""
        self.rows: dict[str, list[list[str]]] = {}  # label of a region -> cells of its table's rows
        self.region = ""
        self.feed(text)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)
        if dict(attrs).get("role") == "region":
            self.region = str(dict(attrs)["aria-label"])
        if tag == "tr":
            self.rows.setdefault(self.region, []).append([])
        if tag in ("td", "th"):
            self.rows[self.region][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in self.code:
            self.code[self.inside[-1]].append(data)
            return
        self.read += data
        if "td" in self.inside or "th" in self.inside:
            self.rows[self.region][-1][-1] += " ".join(data.split())

    def attributes(self, *names: str) -> list[str]:
        return [str(found[name]) for _, found in self.tags for name in names if name in found]


def decoded(uri: str) -> tuple[str, bytes]:
    kind, _, content = uri.removeprefix("data:").partition(";base64,")
    return kind, base64.b64decode(content, validate=True)


class Fabricated:
    """A study of untrained trials with small real sounds and pictures."""

    def __init__(self, spec: dict[str, Any], folder: Path, name: str = "office", directions: int = 1) -> None:
        storage = optuna.storages.InMemoryStorage()
        both = ["maximize", "minimize"][:directions]
        self.study = optuna.create_study(study_name=name, storage=storage, directions=both)
        self.store = FileSystemArtifactStore(folder)
        self.folder = folder
        self.rng = np.random.default_rng(0)
        for key, value in (("spec", spec), ("spec_hash", "0123456789abcdef"), ("noisy", NOISY), ("trials", 9)):
            self.study.set_user_attr(key, value)

    def keep(self, content: bytes, name: str) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return upload_artifact(artifact_store=self.store, file_path=str(path), study_or_trial=self.study)

    def sound(self, subtype: str = "PCM_16") -> str:
        wav = io.BytesIO()
        samples = 0.1 * self.rng.standard_normal(800)
        soundfile.write(wav, samples, 8000, format="WAV", subtype=subtype)
        return self.keep(wav.getvalue(), "sound.wav")

    def picture(self) -> str:
        png = io.BytesIO()
        Image.fromarray(self.rng.integers(0, 255, (6, 9), dtype=np.uint8)).save(png, "PNG")
        return self.keep(png.getvalue(), "picture.png")

    def show(self, label: str = "s1/a.wav + rain/b.ogg", subtype: str = "PCM_16") -> None:
        clips = [
            {"clip": clip, "label": label, "snr_db": 5.0 * clip - 5, "seconds": 0.1, "scores": {"si_sdr": 1.0}}
            | {"noisy": self.sound(subtype), "clean": self.sound(subtype)}
            for clip in range(4)
        ]
        self.study.set_user_attr("showcase", clips)

    def gallery(self) -> list[dict[str, Any]]:
        return [
            {"denoised": self.sound(), "picture": self.picture(), "scores": {"si_sdr": 4.0 + clip}} for clip in range(4)
        ]

    def add(
        self,
        score: float | None,
        *more: float,
        state: TrialState = TrialState.COMPLETE,
        constraints: dict[str, float] | None = None,
        study: optuna.Study | None = None,
        **attributes: Any,
    ) -> None:
        chosen = study or self.study
        number = len(chosen.get_trials(deepcopy=False))
        known = {
            "denoiser": asdict(DenoiserConfig(sample_rate=8000)),
            "training": asdict(TrainingConfig()),
            "metrics": {"si_sdr": score, "pesq": 2.0, "stoi": 0.8},
            "by_snr": {"-5": {"si_sdr": score}, "10": {"si_sdr": score}},
            "worse": {"si_sdr": 0.25},
            "cost": {"parameters": 1000 * (number + 1), "macs_per_s": 1e6 * (number + 1), "latency_ms": 32.0},
            "seconds": 60.0,
        }
        values = [score, *more] if state == TrialState.COMPLETE else None
        chosen.add_trial(
            create_trial(
                state=state,
                values=values,
                params={"depth": 2 + number % 5, "dropout": 0.01 * (number % 30)},
                distributions=DISTRIBUTIONS,
                constraints=constraints or {},
                intermediate_values={} if score is None or more else {108: score - 1, 288: score},
                user_attrs={**(known if state == TrialState.COMPLETE else {}), **attributes},
            )
        )

    def page(self, *, best: int = 10, listen: int = 3) -> Page:
        """Without plots, which take most of the time."""
        content = Content(self.study, best)
        return Page(render(content, gallery(content, self.store, listen, lambda *_: None), []))


@pytest.fixture
def fabricated(tiny_spec, tmp_path: Path) -> Callable[..., Fabricated]:
    def make(name: str = "office", directions: int = 1) -> Fabricated:
        score = ["si_sdr", "macs"] if directions > 1 else "si_sdr"
        return Fabricated(tiny_spec(study={"score": score}).resolved(), tmp_path, name, directions)

    return make


@pytest.fixture(scope="module")
def whole(tiny_spec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fabricated, str]:
    """A study with everything that a study may hold, and its report."""
    made = Fabricated(tiny_spec().resolved(), tmp_path_factory.mktemp("whole"))
    made.show()
    for score in (7.0, 9.0, 8.0, 9.5):
        made.add(score, gallery=made.gallery())
    made.add(8.5, preset="compressed-unet", gallery=made.gallery())
    made.add(20.0, constraints={"stoi": 0.1}, gallery=made.gallery())
    made.add(3.0, state=TrialState.PRUNED, pruned="si_sdr 3 after 0.03 h of audio")
    made.add(None, state=TrialState.FAIL, failure="step 3: loss nan")
    made.add(None, state=TrialState.RUNNING)
    made.study.set_user_attr("noisy_by_snr", {"-5": {"si_sdr": -5.0}, "10": {"si_sdr": 10.0}})
    made.study.set_user_attr("minutes", {"train": {"clean": 93.1, "noise": 22.0}})
    path = made.folder / "report.html"
    write(made.study, made.store, path, 10, 2, QUIET)
    return made, path.read_text(encoding="utf-8")


def test_a_page_loads_nothing_from_outside(whole: tuple[Fabricated, str]) -> None:
    page = Page(whole[1])
    for found in page.attributes("src", "href", "action", "poster", "data", "srcset", "background"):
        assert found.startswith(("data:image/", "data:audio/", "#"))
    code = "".join(page.code["script"] + page.code["style"])
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", code)
    assert "style" not in {name for _, found in page.tags for name in found}


def test_its_policy_allows_only_its_own_script_and_style(whole: tuple[Fabricated, str]) -> None:
    page = Page(whole[1])
    policy = next(str(found["content"]) for _, found in page.tags if "http-equiv" in found)
    known = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert known["default-src"] == "'none'"
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        (code,) = page.code[kind]
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert known[f"{kind}-src"] == f"'sha256-{digest}'"


def test_sounds_are_equal_sample_for_sample_and_pictures_byte_for_byte(whole: tuple[Fabricated, str]) -> None:
    made, text = whole
    page = Page(text)
    trials = made.study.trials
    # the two best, and the best preset
    shown = [*made.study.user_attrs["showcase"], *(clip for n in (3, 1, 4) for clip in trials[n].user_attrs["gallery"])]
    stored = {key: [(made.folder / clip[key]).read_bytes() for clip in shown if key in clip] for key in KEYS}
    uris = [decoded(uri) for uri in page.attributes("src")]
    assert sorted(content for kind, content in uris if kind == "image/png") == sorted(stored["picture"])
    sounds = [content for kind, content in uris if kind.startswith("audio/")]
    wanted = [*stored["noisy"], *stored["clean"], *stored["denoised"]]
    assert len(sounds) == len(wanted) == 4 * (2 + 3)
    assert sorted(map(samples, sounds)) == sorted(map(samples, wanted))
    assert sum(map(len, sounds)) < sum(map(len, wanted))


def samples(sound: bytes) -> tuple[int, bytes]:
    found, rate = soundfile.read(io.BytesIO(sound), dtype="int32")
    return rate, found.tobytes()


def test_sounds_that_are_not_16_bit_stay_wav(fabricated: Callable[..., Fabricated]) -> None:
    made = fabricated()
    made.show(subtype="PCM_24")
    made.add(7.0, gallery=made.gallery())
    kinds = [decoded(uri)[0] for uri in made.page().attributes("src")]
    assert kinds.count("audio/wav") == 8
    assert kinds.count("audio/flac") == 4


def test_the_leaderboard_has_the_best_trials_in_order_and_no_infeasible_one(whole: tuple[Fabricated, str]) -> None:
    made, text = whole
    page = Page(text)
    table = [row for row in page.rows["Leaderboard"][2:] if len(row) > 2]
    assert [row[1] for row in table] == ["3", "1", "4compressed-unet", "2", "0"]
    assert [int(row[1].removesuffix("compressed-unet")) for row in table] == [t.number for t in best_trials(made.study)]
    assert table[0][2:] == ["9.50", "2.00", "0.800", "+4.50", "25%", "4,000", "4", "32", "1.0 min"]
    assert "Left out: 1 complete trial " in page.read
    assert "1 failed, 1 infeasible, 1 pruned, 1 running; 9 asked for" in page.read
    assert "trial 7: step 3: loss nan" in page.read
    assert "93.1" in page.read


def test_presets_of_the_study_beside_the_search_are_included(fabricated: Callable[..., Fabricated]) -> None:
    made = fabricated()
    made.add(7.0)
    made.add(6.0, preset="compressed-unet")
    beside = optuna.create_study(study_name="office-presets", storage=storage_of(made.study), direction="maximize")
    beside.set_user_attr("spec", made.study.user_attrs["spec"])
    made.add(6.5, study=beside, preset="mask-unet")
    made.add(9.0, study=beside, preset="plain-cnn", constraints={"si_sdr": 0.5})
    page = made.page()
    assert "+0.50 over the best preset, 6.50" in " ".join(page.read.split())
    table = page.rows["Presets"][1:]
    rows = {row[0]: row for row in table if len(row) > 1}
    assert list(rows) == ["mask-unet", "compressed-unet", "plain-cnn"]
    assert rows["mask-unet"][5] == f"{MINUS}0.50"
    assert table[1] == ["trial 0 of office-presets"]
    assert table[-1] == ["trial 1 of office-presets, complete, but SI-SDR 0.50 dB below the noisy input's"]


def test_text_of_the_study_is_escaped(fabricated: Callable[..., Fabricated]) -> None:
    def page(word: str) -> Page:
        made = fabricated(word)
        made.show(label=word)
        made.add(7.0, preset=word, gallery=made.gallery())
        made.add(None, state=TrialState.FAIL, failure=word)
        made.add(None, state=TrialState.PRUNED, preset=word, pruned=word)
        made.study.set_user_attr("minutes", {word: {"clean": 1.0, "noise": 1.0}})
        made.study.set_user_attr("corpus", word)
        content = Content(made.study, 10)
        drawn = [cost(content), by_snr(content)]
        return Page(render(content, gallery(content, made.store, 3, lambda *_: None), drawn))

    hostile, harmless = page(HOSTILE), page("harmless")
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(found) for _, found in hostile.tags] == [sorted(found) for _, found in harmless.tags]
    assert hostile.code == harmless.code
    assert hostile.read.count(HOSTILE) == harmless.read.count("harmless") > 10


def test_a_page_without_sounds_says_so(fabricated: Callable[..., Fabricated]) -> None:
    made = fabricated()
    made.add(7.0)
    page = made.page()
    assert "No sounds are kept" in page.read
    assert not page.attributes("src")
    assert page.rows["Leaderboard"][2][1] == "0"


def test_files_missing_in_the_store_are_left_out_and_counted(fabricated: Callable[..., Fabricated]) -> None:
    made = fabricated()
    made.show()
    for score in (7.0, 6.0):
        made.add(score, gallery=made.gallery())
    first, second = (trial.user_attrs["gallery"] for trial in made.study.trials)
    for artifact in (first[1]["denoised"], second[0]["picture"], made.study.user_attrs["showcase"][2]["clean"]):
        made.store.remove(artifact)
    page = made.page()
    assert "3 of the sounds and pictures are missing or damaged in the artifact store" in page.read
    kinds = [decoded(uri)[0] for uri in page.attributes("src")]
    assert kinds.count("audio/flac") == 3 * 3  # of three clips, as the second trial has them all
    assert kinds.count("image/png") == 2
    assert [found["value"] for tag, found in page.tags if tag == "option"] == ["0"]
    assert "Denoised by trial 1" in page.read


def test_a_damaged_sound_is_left_out_and_counted(fabricated: Callable[..., Fabricated]) -> None:
    made = fabricated()
    made.show()
    clips = made.gallery()
    whole = (made.folder / clips[0]["picture"]).read_bytes()
    clips[0]["picture"] = id_of(whole)
    made.store.write(clips[0]["picture"], io.BytesIO(whole[:-1] + b"x"))
    made.add(7.0, gallery=clips)
    page = made.page()
    assert "1 of the sounds and pictures are missing or damaged in the artifact store" in page.read
    assert [decoded(uri)[0] for uri in page.attributes("src")].count("image/png") == 3


def test_duplicates_have_their_sounds_once_and_listen_0_leaves_out_all_sounds(
    fabricated: Callable[..., Fabricated],
) -> None:
    made = fabricated()
    made.show()
    sounds = made.gallery()
    made.add(7.0, gallery=sounds)
    made.add(7.0, gallery=sounds, same_as=0)
    made.add(6.0, gallery=made.gallery())
    content = Content(made.study, 10)
    rows = gallery(content, made.store, 2, lambda *_: None).rows
    assert [row.number for row in rows] == [0, 2]
    assert not made.page(listen=0).attributes("src")


def test_a_page_of_a_study_without_finished_trials_says_so(
    fabricated: Callable[..., Fabricated], tmp_path: Path
) -> None:
    made = fabricated()
    made.add(None, state=TrialState.RUNNING)
    line = write(made.study, made.store, tmp_path / "r.html", 10, 3, QUIET)
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "No trial is complete and feasible yet. Trials so far: 1 running." in page.read
    assert "Leaderboard" not in page.rows
    assert re.fullmatch(r"study office, best 0 trials, no sounds, \d+ kB", line)


def test_a_page_shows_how_many_recordings_were_left_out(fabricated: Callable[..., Fabricated], tmp_path: Path) -> None:
    made = fabricated()
    made.study.set_user_attr("skipped", ["clean/a.wav", "noise/b.wav"])
    write(made.study, made.store, tmp_path / "r.html", 10, 3, QUIET)
    assert "2 recordings with errors were left out" in Page((tmp_path / "r.html").read_text(encoding="utf-8")).read


def test_of_several_scores_a_page_shows_the_front(fabricated: Callable[..., Fabricated]) -> None:
    made = fabricated(directions=2)
    # Optuna keeps no scores of rungs for it.
    clips = {"108": [1.0, 3.0], "288": [4.0, 6.0]}
    for score, macs in ((5.0, 1e6), (7.0, 3e6), (6.0, 4e6)):
        made.add(score, macs, clips=clips)
    content = Content(made.study, 10)
    drawn = {plot.name: plot for plot in plots(content, lambda *_: None)}
    page = Page(render(content, gallery(content, made.store, 3, lambda *_: None), list(drawn.values())))
    assert [row[1] for row in page.rows["Leaderboard"][2:] if len(row) > 2] == ["1", "0"]
    assert "Pareto front" in page.read
    assert "the highest SI-SDR at the fewest multiply-accumulates on" in page.read
    assert all(plot.picture for plot in drawn.values())


def test_the_same_study_gives_the_same_plots_and_each_has_a_description(whole: tuple[Fabricated, str]) -> None:
    first, second = (list(plots(Content(whole[0].study, 10), lambda *_: None)) for _ in range(2))
    assert first == second
    assert len(first) == 5
    for plot in first:
        kind, content = decoded(plot.picture)
        assert kind == "image/svg+xml"
        assert len(content) < 150_000
        assert len(plot.description) > 20
    said = {plot.name: plot.description for plot in first}
    assert said["Quality by noise level"] == f"SI-SDR (dB) of trial 3: 9.50 at {MINUS}5 dB, 9.50 at 10 dB"
    assert (
        said["Progress of the search"] == "Best SI-SDR (dB): 7.000 after 0.02 h, 9.000 after 0.03 h, 9.500 after 0.07 h"
    )
    assert "7.000 at 1 million, 9.000 at 2 million, 9.500 at 4 million" in said["Quality against cost"]


def test_importance_needs_trials_that_differ_and_leaves_out_infeasible_ones(
    fabricated: Callable[..., Fabricated],
) -> None:
    made = fabricated()
    made.add(7.0)
    made.add(8.0, constraints={"stoi": 1.0})
    assert importance(Content(made.study, 10)).caption == "Needs two complete trials that differ in what is searched."
    made.add(9.0)
    plot = importance(Content(made.study, 10))
    assert plot.caption.startswith("What separates the best 50% of 2 complete trials")


def test_an_existing_file_is_replaced_only_with_overwrite_and_atomically(
    fabricated: Callable[..., Fabricated], tmp_path: Path
) -> None:
    made, path = fabricated(), tmp_path / "r.html"
    path.write_text("mine")
    with pytest.raises(TuningError, match=r"r\.html: exists already, expected a new file; .* --overwrite"):
        check(path, overwrite=False)
    with pytest.raises(TuningError, match="not a file in a folder that exists"):
        check(tmp_path / "none" / "r.html", overwrite=True)
    check(path, overwrite=True)
    write(made.study, made.store, path, 10, 3, QUIET, overwrite=True)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]
    with pytest.raises(TuningError, match=r"none/r\.html: No such file or directory, expected a file"):
        write(made.study, made.store, tmp_path / "none" / "r.html", 10, 3, QUIET)
