"""The model card beside an exported file: what it was trained on, how well it does, what it costs, how to load it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quell.atomic import replacing
from quell.errors import ExportError
from quell.metrics.intrusive import UNITS
from quell_tuning.export import weaknesses
from quell_tuning.formatting import number

if TYPE_CHECKING:
    from quell.corpus.memory_map import Corpus
    from quell.metrics.scorer import Scores
    from quell_tuning.export.chosen_trial import Made

MARK = "<!-- model card, written by quell export -->"

REFITTED = (
    "The scores of the trial that was chosen. This file was trained again, on the recordings of that split too: it has "
    "no validation scores of its own, and only the test split is new to it."
)

USE = {
    ".pt": """```python
import torch

denoise = torch.jit.load("{name}")
clean = denoise(noisy)  # float32, (T,) or (B, T) at {rate} Hz; the same shape comes back
```

```cpp
torch::jit::Module denoise = torch::jit::load("{name}");
torch::InferenceMode guard;
torch::Tensor clean = denoise.forward({{noisy}}).toTensor();  // float32, (T,) or (B, T) at {rate} Hz
```""",
    ".onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("{name}")
(clean,) = session.run(["clean"], {{"noisy": noisy}})  # float32, (B, T) at {rate} Hz; the same shape comes back
```

The other inputs have defaults; they carry a long signal's level and state from block to block.""",
    ".pt2": """```python
import torch

denoise = torch.export.load("{name}").module()
(clean,) = denoise(noisy)  # float32, (B, T) at {rate} Hz; the same shape comes back
```""",
}


def write(path: Path, made: Made) -> Path:
    """Writes the card of an exported file beside it; one of an earlier export is replaced.

    Raises:
        ExportError: there is a file of that name which is no card.
    """
    place = path.with_suffix(".md")
    check(place)
    with replacing(place) as partial:
        partial.write_text(text(path, made), encoding="utf-8")
    return place


def check(place: Path) -> None:
    """Whether a card may be written there.

    Raises:
        ExportError: there is a file of that name which is no card.
    """
    try:
        known = not place.exists() or MARK in place.read_text(encoding="utf-8", errors="replace")
    except OSError:
        known = False
    if not known:
        raise ExportError(f"{place}: not a model card, expected none or one of ours to replace; choose another -o")


def text(path: Path, made: Made) -> str:
    """The card, in Markdown."""
    metadata = made.metadata
    parts = [
        MARK,
        f"# {path.name}",
        f"A speech denoiser, waveform to waveform, at {metadata['sample_rate']} Hz: {made.chosen.label}, exported "
        f"{metadata['exported']} with Quell {metadata['quell']} and torch {metadata['torch']}.",
        f"Licence: {metadata['licence'] or 'not stated'}",
        _provenance(made),
        "## Trained on",
        _corpus(metadata, made.corpus),
        "## Scores on the validation split",
        _scores(made),
        "## Weak where",
        weaknesses.text(made),
        "## Cost",
        _cost(made),
        "## How to use it",
        USE[path.suffix].format(name=path.name, rate=metadata["sample_rate"]),
        f"Or without code: `quell denoise {path.name} noisy.wav -o clean.wav`." if path.suffix != ".pt2" else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _provenance(made: Made) -> str:
    """Where it came from, so that it can be made again."""
    metadata = made.metadata
    facts = {
        "study": f"`{metadata['study']}`, whose specification has the hash {metadata['spec_hash']}",
        "recordings": f"corpus {metadata['corpus']}",
        "seed": str(metadata["training"].get("seed", "")),
        "commit": metadata["commit"],
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)


def _corpus(metadata: dict[str, Any], corpus: Corpus | None) -> str:
    hours = metadata["training"]["rungs_audio_hours"][-1]
    low, high = metadata["training"]["snr_db"]
    pairs = corpus is not None and bool(corpus.splits["train"].of("noisy"))
    how = f"{hours:g} h of training audio, "
    how += "of pairs as they were recorded." if pairs else f"mixed from it at {low:g} to {high:g} dB SNR."
    if metadata.get("refit"):
        how += " It was trained on the recordings of train and validation."
    if metadata.get("skipped"):
        how += f" {metadata['skipped']} recordings with errors were left out."
    if corpus is None:
        return f"Corpus {metadata['corpus']}, whose recordings are not here; {how}"
    rows = ["| split | speech, min | noise, min | groups of speech |", "|---|---|---|---|"]
    for split, data in corpus.splits.items():
        groups = len({clip.group for clip in data.of("clean")})
        rows.append(
            f"| {split} | {corpus.minutes(split, 'clean'):.1f} | {corpus.minutes(split, 'noise'):.1f} | {groups} |"
        )
    noises = sorted({clip.category for clip in corpus.splits["train"].of("noise")} - {""})
    named = ["", f"Noises: {', '.join(noises)}."] if noises else []
    return "\n".join([f"Corpus {corpus.fingerprint}; {how}", "", *rows, *named])


def _scores(made: Made) -> str:
    if made.validation is None:
        before, after = made.metadata["validation"]["noisy"], made.metadata["validation"]["denoised"]
        rows = [f"| {_unit(name)} | {number(name, before[name])} | {number(name, after[name])} |" for name in after]
        said = [REFITTED, ""] if made.metadata.get("refit") else []
        return "\n".join([*said, "| | noisy | denoised |", "|---|---|---|", *rows])
    noisy, denoised = made.validation.noisy, made.validation.denoised
    names = list(denoised.values)
    rows = ["| SNR, dB | " + " | ".join(map(_unit, names)) + " |", "|---|" + "---|" * len(names)]
    for snr_db in sorted(set(denoised.snr_db.tolist())):
        chosen = denoised.snr_db == snr_db
        rows.append(f"| {snr_db:g} | " + _row(noisy.of_clips(chosen), denoised.of_clips(chosen)) + " |")
    rows.append("| all | " + _row(noisy, denoised) + " |")
    rows.append("| made worse | " + " | ".join(f"{denoised.worse_than(noisy, name):.0%}" for name in names) + " |")
    count = len(denoised.snr_db)
    how = (
        f"The exported file over {count} mixtures of speakers and noises that training never heard; noisy -> denoised, "
        "gain with its 95 % interval (paired bootstrap over clips). The trial was chosen by these scores: on "
        "other recordings expect a little less."
    )
    return "\n".join([how, "", *rows])


def _row(noisy: Scores, denoised: Scores) -> str:
    cells = []
    for name in denoised.values:
        gain, low, high = (number(name, value, "+") for value in denoised.gain_over(noisy, name))
        before, after = number(name, noisy.mean(name)), number(name, denoised.mean(name))
        cells.append(f"{before} -> {after}, {gain} [{low}, {high}]")
    return " | ".join(cells)


def _cost(made: Made) -> str:
    latency = made.costs.latency_ms
    delay = "the whole recording (it hears backwards)" if math.isinf(latency) else f"{latency:.0f} ms"
    lines = [
        f"- {made.costs.parameters:,} parameters, {made.costs.macs_per_s / 1e6:.0f} M multiply-accumulates per second "
        "of audio",
        f"- latency: {delay}",
    ]
    if made.rtf is not None:
        lines.append(f"- real-time factor {made.rtf:.4f} on one CPU thread of the machine that exported it")
    return "\n".join(lines)


def _unit(name: str) -> str:
    return f"{name} ({UNITS[name]})"
