"""Study files: errors and their messages, the hash, defaults and restoring."""

import json
from pathlib import Path

import pytest
from quell_tuning.errors import StudyFileError
from quell_tuning.study import study_file
from quell_tuning.study.sections import RESERVED

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
    ("old", "new", "message"),
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
        (
            '"pesq"',
            '["macs", "pesq"]',
            r"study.score: \['macs', 'pesq'\], expected a metric \(pesq, .*\) and then costs",
        ),
        ('"pesq"', '["pesq"]', r"study.score: \['pesq'\], expected a metric .* and then costs \(parameters, macs\)"),
        ('"pesq"', '["pesq", "pesq"]', r"study.score: \['pesq', 'pesq'\], expected a metric"),
        ('"pesq"', '["pesq", "macs", "macs"]', r"study.score: \['pesq', 'macs', 'macs'\], expected a metric"),
        ('"pesq"', '["pesq", "stoi"]', r"study.score: \['pesq', 'stoi'\], expected a metric"),
        ('"pesq"', '["pesq", "watts"]', r"study.score: \['pesq', 'watts'\], expected a metric"),
        ('"pesq"', "[]", r"study.score: \[\], expected a metric"),
        ('"pesq"', "3", "study.score: 3, expected"),
        (
            '"pesq"',
            '["pesq", "macs"]\nsampler = "cma-es"',
            "study.sampler: 'cma-es', expected tpe, gp or random for several scores",
        ),
        ('"pesq"', '["pesq", "macs"]\nconfirm = 3', "study.confirm: 3, expected 0 for several scores"),
        ('"pesq"', '"pesq"\nconfirm = -1', "study.confirm: -1, expected greater than or equal to 0"),
        (
            "[search]",
            "[limits]\nparameters = 0\n[search]",
            "limits.parameters: 0, expected greater than or equal to 1",
        ),
        ('"s"', '"../s"', "study.name: '../s', expected"),
        ('"s"', '"s\\n"', r"study.name: 's\\n', expected"),
        ('"s"', f'"{"n" * 101}"', "study.name: 101 characters, expected at most 100"),
        *(('"s"', f'"{name}"', f"study.name: '{name}' is a name in the folder of the runs, ex") for name in RESERVED),
        ('"s"', '"Corpora"', "study.name: 'Corpora' is a name in the folder of the runs, expected another one"),
        ('"pesq"', '"pesq"\nsampler = "tpee"', "study.sampler: 'tpee', expected one of tpe, gp, random, cma-es"),
        ('"pesq"', '"pesq"\npruner = "ASHA"', "study.pruner: 'ASHA', expected one of median, asha, hyperband, none"),
        ("= 16000", "= 0", "corpus.sample_rate: 0, expected"),
        ("= 16000", "= 44100", "corpus.sample_rate: 44100, expected 8000 or 16000 for study.score = 'pesq'"),
        ("[-5.0, 20.0]", "[20.0, -5.0]", r"corpus.snr_db: \[20.0, -5.0\], expected \[low, high\]"),
        (
            "[1.0, 2.0, 4.0]",
            "[1.0, 2.0, 4.0]\nsnr_db = [30.0, -5.0]",
            r"training: snr_db: \[30.0, -5.0\], expected \[low, high\]|training.snr_db: \[30.0, -5.0\], expected",
        ),
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
        (
            "[corpus]",
            "[corpus]\nsplits = { train = 0.5, test = 0.5 }",
            r"corpus.splits: \{'train': 0.5, 'test': 0.5\}, expected train, validation and test",
        ),
        (
            "[corpus]",
            '[corpus]\nsplits = "folder"',
            "corpus.splits: 'folder', expected shares, \"folders\" or the path",
        ),
        (
            "[corpus]",
            '[corpus]\nrooms = "r"\ngenerated_rooms = 5',
            "corpus.generated_rooms: 5 with rooms = 'r', expected",
        ),
        ("[corpus]", "[corpus]\nremix = true", "corpus.remix: true without noisy, expected pairs"),
        ("[corpus]", '[corpus]\nnoisy = "n"\ntrim_db = 40.0', "corpus.trim_db: 40.0 with noisy, expected 0 for pairs"),
        (
            "[1.0, 2.0, 4.0]",
            "[1.0, 2.0, 4.0]\nnoise_level = [0.8, 0.2]",
            r"training.noise_level: \[0.8, 0.2\], expected \[low, high\] from 0 to 100",
        ),
        (
            "[1.0, 2.0, 4.0]",
            "[1.0, 2.0, 4.0]\nnoise_weights = { rain = -1.0 }",
            r"training.noise_weights: \{'rain': -1.0\}, expected 0 or more for each",
        ),
        ("[1.0, 2.0, 4.0]", "[1.0, 2.0, 4.0]\ncodec = 2.0", "training.codec: 2.0, expected less than or equal to 1"),
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
def test_an_error_is_one_line_that_names_file_key_value_and_expectation(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    with pytest.raises(StudyFileError, match=rf"study\.toml: {message}" if old != "[study]" else message) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(caught.value)


def test_a_stored_study_keeps_its_name_whatever_new_ones_may_be_called(tmp_path: Path) -> None:
    for name in ("corpora", f"{'n' * 100}-presets"):
        assert study_file.restore(load(tmp_path).resolved(), name).study.name == name


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"nowhere\.toml: no such file"):
        study_file.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials = 4", "trials = 40"),
        ("trials = 4", "trials = 4\nconfirm = 3"),
        ('name = "s"', 'name = "t"'),
        ("[corpus]", '[corpus]\nclean = "elsewhere"'),
    ],
)
def test_hash_leaves_out_keys_that_change_no_result(tmp_path: Path, old: str, new: str) -> None:
    assert load(tmp_path).hash() == load(tmp_path, GOOD.replace(old, new)).hash()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("high = 6", "high = 5"),
        ("batch_size = 8", "batch_size = 4"),
        ("= 16000", "= 8000"),
        ("-5.0", "-4.0"),
        ('"pesq"', '"stoi"'),
        ('"pesq"', '["pesq", "macs"]'),
        ("trials = 4", "trials = 4\nseed = 1"),
        ("[search]", "[limits]\nparameters = 9\n[search]"),
    ],
)
def test_hash_covers_keys_that_change_a_result(tmp_path: Path, old: str, new: str) -> None:
    assert load(tmp_path).hash() != load(tmp_path, GOOD.replace(old, new)).hash()


def test_keys_added_later_leave_hashes_of_older_studies_unchanged(tmp_path: Path) -> None:
    # By commit 970c71b, before there were pairs and effects of devices.
    assert load(tmp_path).hash() == "2bb5a2657e889b42"
    assert not {key for keys in study_file.LATER.values() for key in keys} & {
        *load(tmp_path).resolved()["corpus"],
        *load(tmp_path).resolved()["training"],
    }


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("corpus", "generated_rooms = 5"),
        ("corpus", 'noisy = "noisy"'),
        ("corpus", 'noisy = "noisy"\nremix = true'),
        ("corpus", "trim_db = 40.0"),
        ("corpus", 'splits = "folders"'),
        ("training", "snr_active = true"),
        ("training", "noise_level = [0.2, 0.8]"),
        ("training", "noise_weights = { rain = 2.0 }"),
        ("training", "remix = 0.2"),
        ("training", "band_limit = 0.1"),
        ("training", "clipping = 0.1"),
        ("training", "codec = 0.1"),
    ],
)
def test_other_mixing_is_another_study_and_can_be_restored(tmp_path: Path, section: str, line: str) -> None:
    plain, other = load(tmp_path), load(tmp_path, GOOD.replace(f"[{section}]", f"[{section}]\n{line}"))
    assert other.hash() != plain.hash()
    restored = study_file.restore(json.loads(json.dumps(other.resolved())), "t")
    assert restored.hash() == other.hash()
    assert restored.training_config() == other.training_config()


def test_the_folder_of_pairs_is_not_in_the_hash(tmp_path: Path) -> None:
    one, other = (load(tmp_path, GOOD.replace("[corpus]", f'[corpus]\nnoisy = "{name}"')) for name in ("a", "b"))
    assert one.hash() == other.hash()


def test_a_default_written_out_is_the_same_study(tmp_path: Path) -> None:
    written = GOOD.replace("[study]", "[study]\nseed = 0").replace("[search]", "[search]\noverlap = 4")
    assert load(tmp_path).hash() == load(tmp_path, written).hash()


@pytest.mark.parametrize(
    ("score", "metric", "directions"),
    [
        ('"si_sdr"', "si_sdr", "up"),
        ('["pesq", "macs"]', "pesq", "up down"),
        ('["si_sdr", "parameters", "macs"]', "si_sdr", "up down down"),
    ],
)
def test_metrics_are_maximised_and_costs_minimised(tmp_path: Path, score: str, metric: str, directions: str) -> None:
    study = load(tmp_path, GOOD.replace('"pesq"', score)).study
    assert study.metric == metric
    assert [{"MAXIMIZE": "up", "MINIMIZE": "down"}[way.name] for way in study.directions] == directions.split()
    assert len(study.scores) == len(study.directions)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[study]", "[study]"),
        ('"pesq"', '["pesq", "parameters", "macs"]'),
        ("trials = 4", "trials = 4\nconfirm = 3\nseed = 7"),
        ("[search]", "[limits]\nparameters = 9\nlatency_ms = 20.0\n[search]"),
        ("[corpus]", '[corpus]\nclean = "elsewhere"\nsplits = { train = 0.5, validation = 0.25, test = 0.25 }'),
        ("high = 6", "high = 6, step = 3"),
        ("batch_size = 8", "learning_rate = { low = 1e-4, high = 1e-2, log = true }\nskips = { choices = [true] }"),
    ],
)
def test_a_study_can_be_restored_from_its_resolved_json(tmp_path: Path, old: str, new: str) -> None:
    assert old in GOOD
    spec = load(tmp_path, GOOD.replace(old, new, 1))
    restored = study_file.restore(json.loads(json.dumps(spec.resolved())), "t")
    assert restored.study.name == "t"
    assert restored.hash() == spec.hash()
    assert (restored.training, restored.limits) == (spec.training, spec.limits)
    assert restored.corpus.snr_db == spec.corpus.snr_db


def test_arguments_replace_the_numbers_of_trials_and_of_confirmed_trials(tmp_path: Path) -> None:
    load(tmp_path)
    path = tmp_path / "study.toml"
    given = study_file.load(path, trials=7, confirm=2)
    assert (given.study.trials, given.study.confirm) == (7, 2)
    assert given.hash() == study_file.load(path).hash()
    with pytest.raises(StudyFileError, match=r"study\.toml: study.trials: 0, expected greater than or equal to 1"):
        study_file.load(path, trials=0)


def test_every_bundled_study_is_valid() -> None:
    studies = sorted((Path(__file__).parents[3] / "studies").glob("*.toml"))
    assert [study_file.load(path).study.name for path in studies] == [path.stem for path in studies]


def test_training_has_the_snrs_of_the_corpus_or_its_own(tmp_path: Path) -> None:
    alike = load(tmp_path)
    assert alike.training_config().snr_db == alike.corpus.snr_db == (-5.0, 20.0)
    other = load(tmp_path, GOOD.replace("[training]", "[training]\nsnr_db = [-5.0, 30.0]"))
    assert other.training_config().snr_db == (-5.0, 30.0) and other.corpus.snr_db == (-5.0, 20.0)
    assert other.hash() != alike.hash()
