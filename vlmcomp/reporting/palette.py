"""The colours of the techniques, the same in every picture."""

from __future__ import annotations

# Okabe and Ito's colours: told apart with any colour vision, legible on white and on near black.
COLORS = {
    "FP16 baseline": "#0072B2",
    "quantized": "#E69F00",
    "MLP pruned": "#009E73",
    "heads pruned": "#CC79A7",
    "tokens pruned": "#56B4E9",
    "combined": "#D55E00",
}
INK, QUIET = "#1e293b", "#64748b"  # of text on white; of lines and small print
