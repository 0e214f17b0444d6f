"""The table of searched parameters: default, legal values, unit, meaning, and how notes and reports write a value.

Search space, presets, error messages, notes, reports and the table in `docs/search-space.md` follow from it.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from quell.config import CHOICES, LOSS_WEIGHTS, ODD, RANGES, DenoiserConfig, TrainingConfig, loss_terms
from quell_tuning import formatting

Value = int | float | str | bool


@dataclass(frozen=True)
class Parameter:
    """One parameter: names out of CHOICES, true or false, a loss, or a number from `low` to `high`."""

    name: str
    kind: type[int] | type[float] | type[str] | type[bool]
    meaning: str  # Markdown
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    words: Mapping[Value, str] = field(default_factory=dict)  # of values; {name} stands for another value

    @property
    def names(self) -> tuple[str, ...]:
        """Legal values of a parameter that is neither a number nor a loss."""
        return CHOICES.get(self.name, ())

    @property
    def legal(self) -> str:
        """Legal values as text."""
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return ", ".join(self.names) or "terms joined by +"
        return f"{self.low:g} to {self.high:g} {self.unit}".rstrip() + (", odd" if self.name in ODD else "")

    def problem(self, value: Value) -> str | None:
        """Why a value is not legal, as `<found>, expected <needed>`; None when it is."""
        if self.kind is bool:
            return None if isinstance(value, bool) else f"{value!r}, expected {self.legal}"
        if self.names:
            return None if value in self.names else f"{value!r}, expected one of {self.legal}"
        if self.kind is str:
            try:
                loss_terms(str(value))
            except ValueError as error:
                return str(error).removeprefix("loss: ")
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (self.kind is int and not isinstance(value, int)):
            return f"{value!r}, expected {'a whole number' if self.kind is int else 'a number'}"
        if not self.low <= float(value) <= self.high:
            return f"{value}, expected {self.legal}"
        if self.name in ODD and int(value) % 2 == 0:
            return f"{value}, expected an odd number"
        return None


PARAMETERS: Mapping[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("win_ms", float, "length of the analysis window", "ms", 2, 256),
        Parameter("overlap", int, "frames that cover each sample; hop = window / overlap", "frames", 2, 16),
        Parameter(
            "representation",
            str,
            "input scale: magnitude ** `power`, to [0, 1]; magnitude, to [-1, 1]; dB, to [0, 1]. The scale is taken "
            "from training data",
            words={"power": "magnitude ** {power:g}", "linear": "magnitude", "log": "magnitude in dB"},
        ),
        Parameter("power", float, "exponent of the representation `power`", "", 0.1, 1),
        Parameter(
            "target",
            str,
            "what the network estimates: a mask on the noisy magnitude, the noise to subtract, or the clean magnitude",
            words={"mask": "mask", "noise": "noise to subtract", "direct": "clean magnitude"},
        ),
        Parameter(
            "phase",
            str,
            "`noisy`: phase unchanged. `estimated`: the phase is also an input of the network, which corrects it",
            words={"noisy": "unchanged", "estimated": "corrected by the network"},
        ),
        Parameter("depth", int, "levels of the U-Net; each halves the number of bins", "levels", *RANGES["depth"]),
        Parameter("base_channels", int, "channels of the first level", "channels", 4, 256),
        Parameter("growth", float, "channels of a level over those of the level before", "", 1, 3),
        Parameter("kernel_bins", int, "kernel size in frequency; at least 3 where the stride is 2", "bins", 1, 15),
        Parameter("kernel_frames", int, "kernel size in time; at least 3 where the stride is 2", "frames", 1, 15),
        Parameter("convolution", str, "`separable`: depthwise, then pointwise"),
        Parameter("convolutions_per_level", int, "convolutions per level of the encoder, and of the decoder", "", 1, 3),
        Parameter("downsampling", str, "`pool`: convolutions at full resolution, then max-pooling"),
        Parameter("time_stride", int, "stride in time, from the second level on", "", *RANGES["time_stride"]),
        Parameter("skips", bool, "skip connections", words={True: "with skips", False: "without skips"}),
        Parameter("normalisation", str, "`frame`: each frame is normalised separately"),
        Parameter("activation", str, "activation function"),
        Parameter("dropout", float, "share of channels that are dropped in training", "", 0, 0.9),
        Parameter(
            "bottleneck",
            str,
            "GRU at the deepest level: over frequency; over time, forward (its state is carried between blocks); over "
            "time in both directions (offline only, in windows of 2 s that are cross-faded)",
            words={
                "frequency": "GRU over frequency, {bottleneck_units} units in each direction",
                "forward": "GRU over time, forward, {bottleneck_units} units",
                "both": "GRU over time in both directions, {bottleneck_units} units each: offline only",
            },
        ),
        Parameter("bottleneck_units", int, "units of the GRU per direction", "units", 4, 1024),
        Parameter(
            "bottleneck_channels",
            int,
            "channels that the GRU gets, mixed from all channels of the deepest level; 0: all of them, unmixed",
            "channels",
            0,
            1024,
        ),
        Parameter("causal", bool, "no frame depends on a later frame", words={True: "yes", False: "no"}),
        Parameter("output", str, "output activation"),
        Parameter("loss", str, "see [loss terms](#loss-terms)"),
        *(Parameter(f"{term}_weight", float, f"weight of the term `{term}`", "", 1e-5, 1000) for term in LOSS_WEIGHTS),
        Parameter("optimiser", str, "`muon`: orthogonalised updates for matrices, AdamW for all other weights"),
        Parameter("learning_rate", float, "peak learning rate", "", 1e-6, 1),
        Parameter("batch_size", int, "segments per step", "segments", 1, 1024),
    )
}

_VALUES: Mapping[str, Value] = {
    # Whole milliseconds stay whole: the hash of a study tells 32 from 32.0.
    "win_ms": DenoiserConfig.win_length * 1000 // DenoiserConfig.sample_rate,
    "overlap": DenoiserConfig.win_length // DenoiserConfig.hop_length,
    **{f"{term}_weight": weight for term, weight in LOSS_WEIGHTS.items()},
    **asdict(DenoiserConfig()),
    **asdict(TrainingConfig()),
}
DEFAULTS: Mapping[str, Value] = {name: _VALUES[name] for name in PARAMETERS}  # the preset `compressed-unet`

# The rows of a configuration; braces stand for fields of DenoiserConfig and TrainingConfig.
ROWS: Mapping[str, str] = {
    "window": "{win_ms:.4g} ms ({win_length} samples at {sample_rate} Hz), hop {hop_ms:.4g} ms ({hop_length})",
    "estimate": "{target} from {representation}",
    "phase": "{phase}",
    "network": "{depth} levels {skips}, {base_channels} channels, at each level {growth:.3g} times as many",
    "convolutions": "{convolution}, {kernel_bins} bins x {kernel_frames} frames, {convolutions_per_level} a level",
    "downsampling": "{downsampling}, by 2 in frequency, by {time_stride} in time",
    "normalisation": "{normalisation}",
    "activation": "{activation}; the last one {output}",
    "dropout": "{dropout:.3g}",
    "bottleneck": "{bottleneck}",
    "causal": "{causal}",
    "loss": "{loss}",
    "optimiser": "{optimiser}",
    "learning rate": "{learning_rate:.3g}",
    "batch": "{batch_size} segments of {segment_s:g} s",
}
LINE = ("estimate", "network", "bottleneck", "loss", "learning rate", "batch")  # rows of the short form


def configuration(denoiser: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, str]:
    """Fields of a `DenoiserConfig` and of a `TrainingConfig` in words, by the names of ROWS; without the rows that need
    a field which an older study lacks.
    """
    fields = _fields(denoiser, training)
    with suppress(KeyError):
        weights = fields.get("loss_weights", {})
        terms = loss_terms(fields["loss"])
        fields["loss"] = " + ".join(f"{weights.get(term, LOSS_WEIGHTS[term]):.3g} x {term}" for term in terms)
    return {name: text for name, template in ROWS.items() if (text := _filled(template, fields))}


def one_line(configuration: Mapping[str, str]) -> str:
    """The rows of LINE in one line."""
    return "; ".join(f"{name} {configuration[name]}" for name in LINE if name in configuration)


def _fields(denoiser: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both, with values in words, and window and hop as `win_ms` and `hop_ms`."""
    fields: dict[str, Any] = {**denoiser, **training}
    with suppress(KeyError):
        fields["win_ms"] = fields["win_length"] / fields["sample_rate"] * 1000
        fields["hop_ms"] = fields["hop_length"] / fields["sample_rate"] * 1000
    words = {
        name: text
        for name, parameter in PARAMETERS.items()
        if name in fields and (text := _filled(parameter.words.get(fields[name], ""), fields))
    }
    return fields | words


def _filled(template: str, fields: Mapping[str, Any]) -> str:
    """A template with its fields filled in; empty where one is missing."""
    with suppress(KeyError):
        return template.format_map(fields)
    return ""


def domain(name: str, searched: Mapping[str, Any]) -> str:
    """What a parameter is searched over, as a study file has it, with the unit."""
    if "choices" in searched:
        text = ", ".join(map(formatting.parameter_value, searched["choices"]))
    else:
        step = f" in steps of {formatting.parameter_value(searched['step'])}" if searched.get("step") else ""
        scale = ", logarithmic" if searched.get("log") else ""
        low, high = (formatting.parameter_value(searched[end]) for end in ("low", "high"))
        text = f"{low} to {high}{step}{scale}"
    unit = PARAMETERS[name].unit if name in PARAMETERS else ""
    return f"{text} {unit}".rstrip()
