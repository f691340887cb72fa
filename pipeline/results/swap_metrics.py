"""The metrics of class swaps, a part of the catalogue."""

from __future__ import annotations

from pipeline.results.metric import Metric

_PAIRS = "95 % interval: bootstrap over pairs of old and new class"

SWAP = (
    Metric(
        "swap_oracle_pct", "swap", "higher", "an independent classifier sees the new class",
        "an independent classifier (same encoder, all labels, its own seed) sees the new class",
        "the oracle's own error; v = 0", (("oracle's error", "oracle_error_pct"), ("v = 0", "swap_oracle_v_zero_pct")),
        "a decoder that ignores v: `swap_oracle_v_zero_pct`", "swap has the new class",
    ),
    Metric("swap_oracle_v_zero_pct", "swap", "", "the same with v = 0 (the control)", "control: the same with v = 0"),
    Metric(
        "swap_v_hit_at_{k}_of_{n}_pct", "swap", "higher", "v of the swapped image finds v(x), nearest {k} of {n}",
        "v of the swapped image, encoded again, finds v(x) among n", "v = 0: nothing of x is left",
        (("v = 0", "swap_v_hit_at_{k}_of_{n}_v_zero_pct"),), "a decoder that ignores r; with v = 0 it is the floor",
    ),
    Metric(
        "swap_v_hit_at_{k}_of_{n}_v_zero_pct", "swap", "", "the same with v = 0 (the control)",
        "control: the same with v = 0",
    ),
    Metric(
        "swap_oracle_{seen}_pct", "swap", "", "an independent classifier sees {seen}",
        "the same classifier sees the old class (the predicted one, whose r v was read with), or neither", _PAIRS,
        caution="an old class that v gives away looks like an r that is ignored",
    ),
    Metric(
        "swap_oracle_{end}_pct", "swap", "", "an independent classifier sees the new class, {end} of its 95 % interval",
        f"ends of `swap_oracle_pct`'s {_PAIRS}", _PAIRS, caution="few classes have few pairs: too narrow",
    ),
    Metric(
        "swap_oracle_{seen}_{end}_pct", "swap", "", "it sees {seen}, {end} of its 95 % interval",
        f"ends of the share's {_PAIRS}", _PAIRS, caution="the same",
    ),
    Metric(
        "oracle_error_pct", "swap", "", "error of the independent classifier on the unchanged examples",
        "control: error of the independent classifier on the test examples that are swapped, unchanged",
        caution="an oracle that errs here lowers every share of the new class",
    ),
    Metric(
        "swap_{feature}_correlation", "swap", "higher", "{feature} of a swap: correlation with the original",
        "images of one channel: the feature of a swap's strokes against the original's, within pairs of classes",
        "reconstruction: the ceiling; swap of another example: the floor",
        (
            ("reconstruction", "swap_{feature}_correlation_reconstruction"),
            ("another example", "swap_{feature}_correlation_other"),
        ),
        "images that are not bright strokes on dark; a decoder that ignores r: read `swap_oracle_pct` beside it",
    ),
    Metric(
        "swap_{feature}_correlation_{instead}", "swap", "", "{feature} of {instead}: correlation with the original",
        "control: the same of the reconstruction (the ceiling), or of another example of the old class swapped to the "
        "same new one (the floor, near 0)",
    ),
    Metric(
        "swap_oracle_and_slant_pct", "swap", "higher", "new class seen and slant kept in the same image",
        "the independent classifier sees the new class in an image whose slant is within 10 degrees of the original's; "
        "images of one channel",
        "reconstruction: the ceiling; swap of another example: the floor",
        (
            ("reconstruction", "swap_oracle_and_slant_reconstruction_pct"),
            ("another example", "swap_oracle_and_slant_other_pct"),
        ),
        "strokes that hardly slant agree by chance: read the floor beside it; classes differ in slant",
    ),
    Metric(
        "swap_oracle_and_slant_{instead}_pct", "swap", "", "class seen and slant kept: {instead}",
        "control: the same of the reconstruction and its own class (the ceiling), or of another example of the old "
        "class swapped to the same new one (the floor)",
    ),
)  # fmt: skip
