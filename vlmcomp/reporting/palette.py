"""Colors of the compression techniques and of text, shared by every figure."""

from __future__ import annotations

# Okabe-Ito palette: distinguishable with any color vision, readable on white and on near black.
COLORS = {
    "FP16 baseline": "#0072B2",
    "quantized": "#E69F00",
    "MLP pruned": "#009E73",
    "heads pruned": "#CC79A7",
    "tokens pruned": "#56B4E9",
    "combined": "#D55E00",
}
DRAWING_ORDER = (*list(COLORS)[1:], "FP16 baseline")  # the baseline last, so that no point hides it
TEXT = "#1e293b"  # on white
MUTED = "#64748b"  # lines and notes
