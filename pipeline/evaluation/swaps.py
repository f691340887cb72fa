"""The class-swap: what an independent classifier sees in it, and whether v is still there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.inference import classify, in_batches
from ie_model.metrics import equivariance, measures
from pipeline.config.params import EvaluateParams
from pipeline.data.loading.in_memory import SplitData
from pipeline.evaluation.sample import sampled
from pipeline.results.metrics_table import Measure, measure_each

_CANDIDATES = 100


def swap_measures(
    artifact: Artifact, test: SplitData, oracle: Artifact, settings: EvaluateParams, device: str
) -> list[Measure]:
    """decode(r_y', v(x)) for a random other class y': does an independent classifier see y', and is v still there?

    Either alone can be gamed: a decoder that ignores v gets the class right, one that ignores r keeps v.
    """
    model, codes = artifact.model, artifact.class_representations
    test = sampled(test, settings.swap_points)
    num = len(test)
    rng = np.random.default_rng(settings.seed + 6)
    offset = torch.from_numpy(rng.integers(1, len(codes), num)).to(device)
    parts: dict[str, list[Tensor]] = {n: [] for n in ("target", "seen", "seen_plain", "v", "v_again", "v_plain")}
    start = 0
    with torch.no_grad():
        for x in in_batches(test.x, settings.batch_size, device):
            predicted = classify(artifact, x).argmax(1)
            target = (predicted + offset[start : start + len(x)]) % len(codes)
            start += len(x)
            v, _ = model.posterior(model.features(x), codes[predicted])
            swapped = model.reconstruct(codes[target], v, x)
            plain = model.reconstruct(codes[target], torch.zeros_like(v), x)
            parts["target"].append(target)
            parts["v"].append(v)
            for image, seen, again in ((swapped, "seen", "v_again"), (plain, "seen_plain", "v_plain")):
                parts[seen].append(classify(oracle, image).argmax(1))
                own = codes[classify(artifact, image).argmax(1)]
                parts[again].append(model.posterior(model.features(image), own)[0])
    arrays = {name: torch.cat(part).cpu().numpy() for name, part in parts.items()}
    candidates = min(_CANDIDATES, num)

    def hit(again: str) -> float:
        return 100 * equivariance.retrieval(arrays[again], arrays["v"], candidates, settings.seed).hit_at_1

    hits = f"swap_v_hit_at_1_of_{candidates}"
    right = 100 * (1 - measures.error_rate(arrays["seen"], arrays["target"]))
    right_plain = 100 * (1 - measures.error_rate(arrays["seen_plain"], arrays["target"]))
    return [
        Measure("swap_oracle_pct", right),
        Measure("swap_oracle_v_zero_pct", right_plain),
        *measure_each({f"{hits}_pct": lambda: hit("v_again"), f"{hits}_v_zero_pct": lambda: hit("v_plain")}),
    ]
