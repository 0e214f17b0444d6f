"""The model card beside an exported file: its training data, scores and weak spots, its cost, how to load it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quell.atomic import replacing
from quell.corpus.memory_map import Corpus
from quell.errors import ExportError
from quell.export.cost import Cost
from quell.metrics.intrusive import UNITS
from quell_tuning.export.chosen_trial import ChosenTrial
from quell_tuning.export.validation_scores import Validation, score_table, weak_spots, weakest_noises
from quell_tuning.formatting import number
from quell_tuning.markdown import plain_table

MARK = "<!-- model card, written by quell export -->"

REFITTED = (
    "The scores of the trial that was chosen. This file was trained again, on the recordings of that split too: it has "
    "no validation scores of its own, and only the test split is new to it."
)
VALIDATED = (
    "The exported file over {} mixtures of speakers and noises that are not in the training data; noisy -> denoised, "
    "gain with its 95 % interval (paired bootstrap over clips). The trial was chosen by these scores: on other "
    "recordings expect a little less."
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


@dataclass(frozen=True)
class ExportedTrial:
    """An exported file, and what its card is written from."""

    chosen: ChosenTrial
    costs: Cost
    rtf: float | None  # real-time factor of the file itself; None for a format that Quell does not run
    metadata: dict[str, Any]
    corpus: Corpus | None  # None when the decoded recordings are not on this machine
    validation: Validation | None  # None without a corpus


def write(path: Path, exported: ExportedTrial) -> Path:
    """Writes the card beside an exported file; the card of an earlier export is replaced.

    Raises:
        ExportError: a file of the card's name is there and is no card.
    """
    card = path.with_suffix(".md")
    check(card)
    with replacing(card) as partial:
        partial.write_text(text(path, exported), encoding="utf-8")
    return card


def check(card: Path) -> None:
    """Checks that a card may be written there.

    Raises:
        ExportError: a file of that name is there and is no card.
    """
    try:
        free = not card.exists() or MARK in card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        free = False
    if not free:
        raise ExportError(f"{card}: not a model card, expected none or one of ours to replace; choose another -o")


def text(path: Path, exported: ExportedTrial) -> str:
    """The card, in Markdown."""
    metadata, corpus = exported.metadata, exported.corpus
    weak = ["Not in the training data:", "\n".join(f"- {what}" for what in untrained(metadata, corpus))]
    if exported.validation is not None and corpus is not None:
        weak[:0] = weak_spots(exported.validation), weakest_noises(exported.validation, corpus)
    parts = [
        MARK,
        f"# {path.name}",
        f"A speech denoiser, waveform to waveform, at {metadata['sample_rate']} Hz: {exported.chosen.label}, exported "
        f"{metadata['exported']} with Quell {metadata['quell']} and torch {metadata['torch']}.",
        f"Licence: {metadata['licence'] or 'not stated'}",
        _provenance(metadata),
        "## Trained on",
        _corpus(metadata, corpus),
        "## Scores on the validation split",
        _scores(exported),
        "## Weak where",
        *weak,
        "## Cost",
        _cost(exported),
        "## How to use it",
        USE[path.suffix].format(name=path.name, rate=metadata["sample_rate"]),
        f"Or without code: `quell denoise {path.name} noisy.wav -o clean.wav`." if path.suffix != ".pt2" else "",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _provenance(metadata: dict[str, Any]) -> str:
    """What the file was made from, so that it can be made again."""
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
    training = f"{hours:g} h of training audio, "
    training += "of pairs as they were recorded." if pairs else f"mixed from it at {low:g} to {high:g} dB SNR."
    if metadata.get("refit"):
        training += " It was trained on the recordings of train and validation."
    if metadata.get("skipped"):
        training += f" {metadata['skipped']} recordings with errors were left out."
    if corpus is None:
        return f"Corpus {metadata['corpus']}, whose recordings are not here; {training}"
    rows = []
    for split, data in corpus.splits.items():
        minutes = [f"{corpus.minutes(split, kind):.1f}" for kind in ("clean", "noise")]
        rows.append([split, *minutes, str(len({clip.group for clip in data.of("clean")}))])
    table = plain_table(["split", "speech, min", "noise, min", "groups of speech"], rows)
    noises = sorted({clip.category for clip in corpus.splits["train"].of("noise")} - {""})
    named = f"Noises: {', '.join(noises)}." if noises else ""
    return "\n\n".join(filter(None, [f"Corpus {corpus.fingerprint}; {training}", table, named]))


def untrained(metadata: dict[str, Any], corpus: Corpus | None) -> list[str]:
    """Kinds of input that the training data lack, as far as they tell."""
    low, high = metadata["training"]["snr_db"]
    kinds = [f"noise louder than {low:g} dB SNR, or softer than {high:g} dB"]
    if corpus is not None:
        train = corpus.splits["train"]
        if train.of("noisy"):
            kinds = ["noise of other kinds, or louder, than in the pairs of recordings"]
        noises = sorted({clip.category for clip in train.of("noise")})
        if any(noises):
            kinds.append(f"noises other than {', '.join(noises)}")
        speakers = len({clip.group for clip in train.of("clean")})
        kinds.append(f"voices and languages other than those of {speakers} groups of speech")
        if not train.of("room") or metadata["training"].get("rooms") == 0:
            kinds.append("reverberation that was not recorded with the speech")
    kinds.append(f"sound above {metadata['sample_rate'] / 2000:g} kHz, which does not come back")
    return kinds


def _scores(exported: ExportedTrial) -> str:
    """The file's own scores on the validation mixtures; without them those of the trial."""
    if exported.validation is not None:
        how = VALIDATED.format(len(exported.validation.labels))
        return f"{how}\n\n{score_table(exported.validation)}"
    before, after = exported.metadata["validation"]["noisy"], exported.metadata["validation"]["denoised"]
    rows = [[f"{name} ({UNITS[name]})", number(name, before[name]), number(name, after[name])] for name in after]
    table = plain_table(["", "noisy", "denoised"], rows)
    return f"{REFITTED}\n\n{table}" if exported.metadata.get("refit") else table


def _cost(exported: ExportedTrial) -> str:
    costs = exported.costs
    infinite = math.isinf(costs.latency_ms)
    latency = "the whole recording (the network also runs backwards)" if infinite else f"{costs.latency_ms:.0f} ms"
    lines = [
        f"- {costs.parameters:,} parameters, {costs.macs_per_s / 1e6:.0f} M multiply-accumulates per second of audio",
        f"- latency: {latency}",
    ]
    if exported.rtf is not None:
        lines.append(f"- real-time factor {exported.rtf:.4f} on one CPU thread of the machine that exported it")
    return "\n".join(lines)
