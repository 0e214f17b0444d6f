"""Study files: what is refused and how it is said, and what the hash covers."""

from pathlib import Path

import pytest

from tuning import study_file
from tuning.errors import StudyFileError

GOOD = """
[study]
name = "s"
trials = 4
score = "pesq"

[corpus]
sample_rate = 16000
snr_db = [-5.0, 20.0]
group_clean = "parent"
group_noise = '^\\d-(\\d+)-'

[training]
audio_hours = 4.0
rungs_audio_hours = [1.0, 2.0, 4.0]

[search]
win_ms = { choices = [16, 32] }
depth = { low = 3, high = 6 }
loss = { choices = ["l1", "compressed+si_sdr"] }
batch_size = 8
"""


def load(tmp_path: Path, text: str = GOOD) -> study_file.StudySpec:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return study_file.load(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "trials = 4",
            "trails = 4",
            "study.trails: unknown key, expected one of name, trials, score, seed, confirm, sampler, pruner; did you",
        ),
        (
            "[search]",
            "[serach]",
            "serach: unknown key, expected one of study, corpus, training, limits, search; did you mean",
        ),
        ("depth =", "dept =", "search.dept: unknown key, expected one of win_ms, .*; did you mean 'depth'"),
        ("low = 3", "lo = 3", "search.depth.lo: unknown key, expected one of choices, low, high, .* 'low'"),
        ("name = ", "# ", "study.name: missing"),
        ("trials = 4", 'trials = "4"', "study.trials: '4', expected a whole number"),
        ("trials = 4", "trials = 0", "study.trials: 0, expected greater than or equal to 1"),
        ('"pesq"', '"pesk"', "study.score: 'pesk', expected one of pesq, stoi, estoi, si_sdr"),
        ('"s"', '"../s"', "study.name: '../s', expected"),
        ('"pesq"', '"pesq"\nsampler = "tpee"', "study.sampler: 'tpee', expected 'tpe', 'gp', 'random' or 'cma-es'"),
        ('"pesq"', '"pesq"\npruner = "ASHA"', "study.pruner: 'ASHA', expected 'median', 'asha', 'hyperband' or 'none'"),
        ("= 16000", "= 0", "corpus.sample_rate: 0, expected"),
        ("= 16000", "= 44100", "corpus.sample_rate: 44100, expected 8000 or 16000 for study.score = 'pesq'"),
        ("[-5.0, 20.0]", "[20.0, -5.0]", r"corpus.snr_db: \[20.0, -5.0\], expected \[low, high\]"),
        ("'^\\d-(\\d+)-'", "'^\\d-('", "corpus.group_noise: .* expected a regular expression"),
        ("'^\\d-(\\d+)-'", "'^\\d-'", "corpus.group_noise: .* has 0 groups, expected"),
        ("[1.0, 2.0, 4.0]", "[2.0, 1.0, 4.0]", r"training.rungs_audio_hours: \[2.0, 1.0, 4.0\], expected ascending"),
        ("[1.0, 2.0, 4.0]", "[1.0, 2.0]", r"training.rungs_audio_hours: \[1.0, 2.0\], expected .* audio_hours, 4.0"),
        (
            "[1.0, 2.0, 4.0]",
            "[0.1, 4.0]",
            "training.rungs_audio_hours: 0.1 h are 22 steps of batch 8, expected at least",
        ),
        ("high = 6", "high = 60", "search.depth: 60, expected 2 to 7 levels"),
        ("high = 6", "high = 2", "search.depth: low 3, high 2, expected low < high"),
        ("high = 6", "high = 6, log = true, step = 1", "search.depth: log with low 3, step 1, expected"),
        ("{ low = 3, high = 6 }", "[3, 6]", r"search.depth: \[3, 6\], expected a value"),
        ("[16, 32]", "[]", r"search.win_ms.choices: \[\], expected at least 1"),
        ('["l1",', '["l3",', "search.loss: 'l3' in 'l3', expected terms out of"),
        ('["l1",', '["si_sdr",', "search.loss: 'si_sdr' leaves the gain free, expected a sum"),
        ("batch_size = 8", "batch_size = 8.5", "search.batch_size: 8.5, expected a whole number"),
        ("batch_size = 8", "kernel_bins = { low = 3, high = 5 }", "search.kernel_bins: low and high, expected choices"),
        ("batch_size = 8", "kernel_bins = 4", "search.kernel_bins: 4, expected an odd number"),
        ("[study]", "[study", "expected a study file"),
        ("batch_size = 8", 'skips = "no"', "search.skips: 'no', expected true or false"),
        ("batch_size = 8", "dropout = true", "search.dropout: True, expected a number"),
        ("batch_size = 8", 'target = "phase"', "search.target: 'phase', expected one of mask, noise, direct"),
        ("batch_size = 8", "causal = { low = 0, high = 1 }", "search.causal: low and high, expected choices"),
        (
            '"compressed+si_sdr"] }',
            '"bce"] }\noutput = "tanh"',
            "search.loss: 'bce' with output 'tanh', expected output sigmoid",
        ),
        (
            "batch_size = 8",
            'causal = true\nbottleneck = "both"',
            "search.bottleneck: 'both' and causal = true, expected",
        ),
    ],
)
def test_a_wrong_study_is_refused_in_one_line_that_names_file_key_found_and_needed(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    with pytest.raises(StudyFileError, match=rf"study\.toml: {said}" if old != "[study]" else said) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"nowhere\.toml: no such file"):
        study_file.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("old", "new"),
    [("trials = 4", "trials = 40"), ('name = "s"', 'name = "t"'), ("[corpus]", '[corpus]\nclean = "elsewhere"')],
)
def test_hash_leaves_out_what_changes_no_result(tmp_path: Path, old: str, new: str) -> None:
    assert load(tmp_path).hash() == load(tmp_path, GOOD.replace(old, new)).hash()


@pytest.mark.parametrize(
    ("old", "new"),
    [("high = 6", "high = 5"), ("batch_size = 8", "batch_size = 4"), ("= 16000", "= 8000"), ("-5.0", "-4.0")],
)
def test_hash_covers_what_changes_a_result(tmp_path: Path, old: str, new: str) -> None:
    assert load(tmp_path).hash() != load(tmp_path, GOOD.replace(old, new)).hash()


def test_a_default_written_out_is_the_same_study(tmp_path: Path) -> None:
    written = GOOD.replace("[study]", "[study]\nseed = 0").replace("[search]", "[search]\noverlap = 4")
    assert load(tmp_path).hash() == load(tmp_path, written).hash()


def test_every_shipped_study_is_valid() -> None:
    studies = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
    assert [study_file.load(path).study.name for path in studies] == [path.stem for path in studies]
