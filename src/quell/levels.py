"""Levels of tensors of samples: rms, level of active speech (after ITU-T P.56), the gain that gives an SNR."""

from torch import Tensor

FRAME_S = 0.02
ACTIVE_DB = 25.0  # frames further below the loudest one hold no speech


def rms(waveform: Tensor) -> Tensor:
    """Root mean square over the last axis, which is kept with size 1."""
    return waveform.square().mean(-1, keepdim=True).sqrt()


def noise_gain(clean: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """Factor for `noise` that puts `clean` snr_db above it, energies over the whole signal.

    A silent clean signal gives 0, and silent noise stays silent.

    Shape:
        clean, noise: (B, T); snr_db: (B, 1), dB. Returns (B, 1).
    """
    return rms(clean) / rms(noise).clamp_min(1e-8) * 10 ** (-snr_db / 20)


def speech_level(clean: Tensor, sample_rate: int) -> Tensor:
    """Root mean square of speech where there is some: of the frames that are at most ACTIVE_DB below the loudest one.

    As ITU-T P.56 has it, but for its envelope, whose hangover counts short pauses as speech; of silence 0.

    Shape:
        clean: (B, T). Returns (B, 1).
    """
    frame = min(round(FRAME_S * sample_rate), clean.shape[1])
    whole = clean[:, : clean.shape[1] // frame * frame]
    powers = whole.unflatten(1, (-1, frame)).square().mean(2)
    active = powers >= powers.amax(1, keepdim=True) * 10 ** (-ACTIVE_DB / 10)
    level: Tensor = ((powers * active).sum(1, keepdim=True) / active.sum(1, keepdim=True)).sqrt()
    return level
