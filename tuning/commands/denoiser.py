"""Commands about a denoiser that was found: export, denoise, evaluate."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from tuning.options import (
    CorpusOption,
    JsonOption,
    RunsOption,
    StorageFileOption,
    StorageOption,
    StudyName,
    load_spec,
    open_place,
    open_study,
    stderr,
    stdout,
)


def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write; a card goes beside it.")],
    study: StudyName = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="A trial's number, instead of the best.")] = None,
    kind: Annotated[
        str | None,
        typer.Option("--format", help="torchscript, onnx or pt2; by the suffix of -o without."),
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="For the card and the file's metadata.")] = "",
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """The best (or a given) trial as one file, with a model card."""
    from tuning.exporting import export_best

    formats = {"torchscript": ".pt", "onnx": ".onnx", "pt2": ".pt2"}
    if kind is not None and kind not in formats:
        raise typer.BadParameter(f"{kind!r}, expected one of {', '.join(formats)}", param_hint="--format")
    needed = [formats[kind]] if kind else list(formats.values())
    if output.suffix not in needed:
        found = f"{output}: ends in {output.suffix!r}"
        raise typer.BadParameter(f"{found}, expected {' or '.join(needed)}", param_hint="--output")
    place = open_place(runs, storage, storage_file)
    stored = open_study(study, place)
    made = export_best(stored, place.runs, output, trial, licence=licence, console=stderr())
    print(f"{output}: {made.chosen.label}; card: {output.with_suffix('.md')}")
    before, after = made.metadata["validation"]["noisy"], made.metadata["validation"]["denoised"]
    print("validation: " + ", ".join(f"{name} {value:.3f} (noisy {before[name]:.3f})" for name, value in after.items()))
    print(f"{made.costs.parameters:,} parameters, {made.costs.macs_per_s / 1e6:.0f} M MAC/s")
    latency = "infinite" if math.isinf(made.costs.latency_ms) else f"{made.costs.latency_ms:.0f} ms"
    print(f"latency {latency}" + (f", real-time factor {made.rtf:.4f} on one thread" if made.rtf is not None else ""))
    return 0


def denoise(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file made by `quell export`.")],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Recordings, folders, patterns; - for raw samples.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A file for one recording, else a folder; - for stdout.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Recordings at once; 0: one for each core.")] = 0,
    wet: Annotated[float, typer.Option("--wet", min=0, max=1, help="Share of the denoised signal.")] = 1.0,
    attenuation_limit: Annotated[
        float | None, typer.Option("--attenuation-limit", min=0, help="Lower the noise by so many dB at most.")
    ] = None,
    rate: Annotated[int, typer.Option("--rate", min=1000, help="Hz, of raw samples.")] = 16000,
    channels: Annotated[int, typer.Option("--channels", min=1, help="Of raw samples, interleaved.")] = 1,
    encoding: Annotated[str, typer.Option("--encoding", help="Of raw samples: s16le, s24le, s32le, f32le.")] = "s16le",
) -> int:
    """Clean recordings; rate, channels, length and format are kept."""
    from quell.audio import Raw
    from quell.enhance import Mix
    from quell.pipe import ENCODINGS
    from tuning.denoising import files, stream

    mix = Mix(wet, attenuation_limit)
    if Path("-") not in inputs:
        return files(model, inputs, output, mix, overwrite=overwrite, processes=jobs, console=stderr())
    if len(inputs) > 1:
        raise typer.BadParameter("- among others, expected it alone", param_hint="INPUT")
    if encoding not in ENCODINGS:
        raise typer.BadParameter(f"{encoding!r}, expected one of {', '.join(ENCODINGS)}", param_hint="--encoding")
    return stream(model, output, Raw(rate, channels, ENCODINGS[encoding]), mix, overwrite=overwrite, console=stderr())


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file made by `quell export`.")],
    study: Annotated[Path, typer.Option("--study", help="The study file whose test split is used.")],
    corpus: CorpusOption = None,
    mixtures: Annotated[int, typer.Option("--mixtures", min=6, help="Test mixtures, at six SNRs in turn.")] = 240,
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Score a denoiser on the test split, by SNR."""
    import os

    from quell.corpus import open_store
    from quell.model import load
    from quell.scoring import Scorer
    from tuning import evaluation

    spec = load_spec(study)
    loaded = load(model)
    place = open_place(runs, storage, storage_file, corpus)
    console = stderr()
    if corpus is None:  # the study knows which decoded corpus it was made from
        data = open_store(place.runs.corpora / open_study(spec.study.name, place).user_attrs["corpus"])
    else:
        data = place.open_corpus(spec, console)
    if loaded.metadata.get("corpus") != data.fingerprint:
        console.print(f"quell: {model}: trained on another corpus, whose training recordings may be in this test split")
    with Scorer(len(os.sched_getaffinity(0))) as scorer:
        summary = evaluation.summary(*evaluation.test_scores(loaded, spec, data, scorer, mixtures, console))
    if as_json:
        print(json.dumps(summary))
    else:
        evaluation.show(summary, stdout())
    return 0
