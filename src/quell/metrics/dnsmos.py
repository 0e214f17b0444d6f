"""DNSMOS: mean opinion scores of a recording, estimated by networks without a clean reference.

SIG, BAK and OVRL of ITU-T P.835 (Reddy et al. 2022, arXiv:2110.01763) and the MOS of P.808 (Reddy et al. 2021,
arXiv:2010.15258), 1 to 5 each, by the networks in the package speechmos. Nothing is downloaded.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from quell.audio import FloatArray
from quell.errors import PackageError
from quell.metrics.intrusive import ClipScore

SAMPLE_RATE = 16_000
# Metric -> key of speechmos's result.
KEYS = {"sig": "sig_mos", "bak": "bak_mos", "ovrl": "ovrl_mos", "p808": "p808_mos"}
NAMES = tuple(KEYS)
UNITS = dict.fromkeys(NAMES, "MOS")
WORST = 1.0
PACKAGES = ("speechmos", "onnxruntime", "librosa", "requests")


def require() -> None:
    """Raises PackageError if one of DNSMOS's packages is not installed."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise PackageError(
                f"{package}: not installed, expected it for DNSMOS; pip install 'quell-denoiser[dnsmos]'"
            )


def score_clip(estimate: FloatArray) -> ClipScore:
    """DNSMOS of a recording (T,), T >= 1, at 16 kHz, clipped at full scale as integer formats are.

    A recording over 9 s is rated in windows of 9 s, one each second; shorter ones are repeated to 9 s. Silence and NaN
    score the worst value: the networks rate silence above noisy speech.
    """
    if not np.isfinite(estimate).all() or not estimate.any():
        return ClipScore(dict.fromkeys(NAMES, WORST), NAMES)
    ratings = _networks()(np.clip(estimate, -1, 1), SAMPLE_RATE, False)
    return ClipScore({name: float(ratings[key]) for name, key in KEYS.items()}, ())


@cache
def _networks() -> Any:
    import onnxruntime
    from speechmos import dnsmos

    folder = Path(dnsmos.__file__).parent / "dnsmos_models"
    primary, p808 = (str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx"))
    networks = dnsmos.DNSMOS(primary, p808)
    # Its own sessions use all cores each; clips are scored in several processes. As of speechmos 0.0.1.1.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, path in (("onnx_sess", primary), ("p808_onnx_sess", p808)):
        setattr(networks, name, onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    return networks
