"""Which columns of history.csv are drawn together."""

from __future__ import annotations

CURVES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Validation error", "error (%)", (("val_error", "validation"),)),
    ("Training loss", "loss (nats per example)", (("loss", "loss"),)),
    (
        "Bounds",
        "bound (nats per example)",
        (("bound_labelled", "labelled"), ("bound_unlabelled", "unlabelled"), ("val_bound", "validation")),
    ),
    ("What v carries", "KL to the prior (nats per example)", (("kl", "KL"),)),
    ("Classes in the class sum", "live classes per example", (("classes_alive", "classes"),)),
    ("Share of confident points", "share of unlabelled points", (("confident", "confident"),)),
)
"""Title, y label and (column, name) of each panel of the training curves."""
