"""What a training step costs, in one thread: `python benchmarks/step.py [--small] [--only PART]`.

Parts, each side by side in this process:

- peer: M2 by this package against Pyro's SSVAE with the same networks, enumeration of the classes and batch. Pyro is
  installed into a folder of its own that is thrown away.
- pruning: a whole run with the pruned class sum against one with the exact sum, for either decoder.
- classes: a step with 10, 50 and 200 classes, pruned and exact.
- arithmetic: floating-point operations of a step per second, as a share of the best matrix product of this machine.
- profile: where the time of a step goes, by kind of operation.

Writes benchmarks/results/step.json, unless it is `--small`; `--only PART` measures that part of it anew, and notes its
commit.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.common import by_turns, make_params, make_trainer, tell  # noqa: E402
from benchmarks.publish import keep  # noqa: E402
from benchmarks.step_rows import ROWS  # noqa: E402
from ie_model.model import EquiVAE  # noqa: E402
from ie_model.networks import to_float  # noqa: E402
from ie_model.objective import Objective, Shares  # noqa: E402
from ie_model.spec import DataSpec  # noqa: E402
from pipeline.training.trainer import Trainer  # noqa: E402

CLASSES = (10, 50, 200)
_PINS = ("pyro-ppl==1.9.2", "pyro-api==0.1.2", "opt_einsum==3.4.0")


class Steps:
    """Steps of a run, as its loop takes them; `with` closes what feeds it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._feed = trainer._batches()
        self.alive = 0.0

    def __enter__(self) -> Steps:
        self._batches: Iterator[tuple[Tensor | None, int]] = self._feed.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._feed.__exit__(None, None, None)

    def take(self, num: int, prune: float | None = None) -> None:
        """Trains `num` steps, with another threshold of the class sum where one is given."""
        objective = self.trainer.fit.objective
        if prune is not None:
            objective.config = objective.config.model_copy(update={"prune": prune})
        self.alive = 0.0
        for _ in range(num):
            logged = self.trainer._step(next(self._batches)[0])
            self.alive += float(logged["classes_alive"]) / num
            self.trainer.state.step += 1


def peer(small: bool) -> dict[str, Any]:
    """Points a second of M2 here, pruned and exact, and of Pyro's SSVAE."""
    warm, steps, rounds = (20, 3, 3) if small else (400, 20, 7)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, *_PINS]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
        sys.path.insert(0, folder)
        params = make_params(train={"precision": "float32"})
        trainer = make_trainer(params, "m2")
        with Steps(trainer) as run:
            run.take(warm)
            other = pyro_steps(trainer)
            tasks: dict[str, Callable[[], None]] = {
                "pruned": functools.partial(run.take, steps, 0.01),
                "exact": functools.partial(run.take, steps, 0.0),
                "pyro": functools.partial(other, steps),
            }
            run.take(steps, 0.01)
            found["classes_alive"] = round(run.alive, 2)
            seconds = by_turns(tasks, rounds)
        sys.path.remove(folder)
    points = steps * trainer.fit.unlabelled_batch
    found["points_per_s"] = {name: round(points / value) for name, value in seconds.items()}
    found["ratios"] = {f"{name} / pyro": round(seconds["pyro"] / seconds[name], 2) for name in ("pruned", "exact")}
    return found | {"batch": trainer.fit.unlabelled_batch, "precision": "float32", "rounds": rounds}


def pyro_steps(trainer: Trainer) -> Callable[[int], None]:
    """Steps of M2 in Pyro, after its SSVAE example, with the modules of `trainer`'s model and an optimizer of its own.

    One optimizer step for the labelled bound, the unlabelled bound and the classifier's term together, on tensors in
    memory: the example takes three.
    """
    import pyro
    import pyro.distributions as dist
    from pyro.infer import TraceEnum_ELBO, config_enumerate

    model, data, alpha = trainer.fit.model, trainer.data, trainer.fit.objective.alpha
    head, num_classes, v_dim = model.posterior_head, model.spec.num_classes, model.config.v_dim
    objective = trainer.job.objective
    num_labelled = num_classes * (objective.support_min + objective.support_max) // 2
    x_all = data.points.take(data.unlabelled[:10_000])
    x_labelled = to_float(data.points.take(data.labelled))
    y_labelled = torch.from_numpy(data.y).long()
    generator = torch.Generator().manual_seed(0)
    pyro.enable_validation(False)

    def joint(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("points", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(len(x), num_classes)), obs=y)
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), v_dim), x.new_ones(len(x), v_dim)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=model.decoder(y, z)).to_event(3), obs=x)

    def log_q(x: Tensor) -> Tensor:
        logits: Tensor = model.class_logits(model.invariant_out(model.invariant_trunk(x)))
        return logits

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("points", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=log_q(x)))
            mean, log_var = head.combine(head.project_features(model.posterior_trunk(x)), head.project_r(y))
            pyro.sample("z", dist.Normal(mean, (0.5 * log_var).exp()).to_event(1))

    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    enumerated = config_enumerate(guide, "parallel", expand=True)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4, foreach=True)

    def take(num: int) -> None:
        for _ in range(num):
            rows = torch.randint(len(x_all), (trainer.fit.unlabelled_batch,), generator=generator)
            chosen = torch.randint(len(x_labelled), (num_labelled,), generator=generator)
            x, x_l, y_l = to_float(x_all[rows]), x_labelled[chosen], y_labelled[chosen]
            loss = elbo.differentiable_loss(joint, enumerated, x) / len(x)
            loss = loss + elbo.differentiable_loss(joint, guide, x_l, F.one_hot(y_l, num_classes).float()) / len(x_l)
            loss = loss + alpha * F.cross_entropy(log_q(x_l), y_l)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return take


def pruning(small: bool) -> dict[str, Any]:
    """Seconds and val error of whole runs, pruned and exact."""
    found: dict[str, Any] = {}
    for decoder in ("dense", "convolutional"):
        runs: dict[str, Any] = {}
        for name, prune in (("pruned", 0.01), ("exact", 0.0)):
            params = make_params(
                model={"decoder": decoder}, objective={"prune": prune}, train={"epochs": 1 if small else 6}
            )
            trainer = make_trainer(params, "plain")
            if small:
                with Steps(trainer) as run:
                    trainer.job = trainer.job.model_copy(update={"steps_per_epoch": 10})
                    seconds = by_turns({"": functools.partial(run.take, 10)}, 1)[""]
                runs[name] = {"seconds": round(seconds, 1)}
            else:
                last = trainer.run()
                runs[name] = {"seconds": round(trainer.state.seconds, 1), "val_error_pct": round(last["val_error"], 2)}
            tell(f"{decoder} decoder, {name}: {runs[name]}")
        runs["ratio"] = round(runs["exact"]["seconds"] / runs["pruned"]["seconds"], 2)
        found[decoder] = runs
    return found


def classes(small: bool) -> dict[str, Any]:
    """Milliseconds of a step by number of classes, on images of a class's template and noise."""
    warm, steps, rounds = (10, 1, 1) if small else (150, 3, 5)
    found: dict[str, Any] = {}
    for num_classes in CLASSES[:2] if small else CLASSES:
        synthetic = SyntheticSteps(num_classes)
        synthetic.take(warm, 0.01)
        tasks = {"pruned": functools.partial(synthetic.take, steps, 0.01)}
        tasks |= {"exact": functools.partial(synthetic.take, 1, 0.0)}
        seconds = by_turns(tasks, rounds)
        synthetic.take(1, 0.01)
        found[str(num_classes)] = {
            "pruned_ms": round(1000 * seconds["pruned"] / steps, 1),
            "exact_ms": round(1000 * seconds["exact"], 1),
            "classes_alive": round(synthetic.alive, 2),
        }
        tell(f"{num_classes} classes: {found[str(num_classes)]}")
    few, many = found[str(CLASSES[0])], found[str(CLASSES[1 if small else 2])]
    for name in ("pruned", "exact"):
        found[f"{name}_growth"] = round(many[f"{name}_ms"] / few[f"{name}_ms"], 2)
    return found


class SyntheticSteps:
    """Steps on 256 unlabelled 28x28 images and two labelled ones of each class: a template of the class, and noise."""

    def __init__(self, num_classes: int) -> None:
        torch.manual_seed(0)
        params = make_params()
        spec = DataSpec(
            kind="image",
            shape=(1, 28, 28),
            dtype="uint8",
            classes=tuple(str(i) for i in range(num_classes)),
            likelihood="bernoulli",
        )
        plain = params.objective.model_copy(
            update={"extended": params.objective.extended.model_copy(update={"enabled": False})}
        )
        self.objective = Objective(EquiVAE(spec, params.model), plain, Shares(2 * num_classes, 60_000))
        self.optimizer = torch.optim.Adam(self.objective.parameters(), lr=0.002, foreach=True)
        self.templates = F.interpolate((torch.rand(num_classes, 1, 7, 7) > 0.5).float(), size=28)
        self.generator = torch.Generator().manual_seed(0)
        self.alive = 0.0

    def take(self, num: int, prune: float) -> None:
        """Trains `num` steps."""
        self.objective.config = self.objective.config.model_copy(update={"prune": prune})
        num_classes = len(self.templates)
        for _ in range(num):
            y_labelled = torch.arange(num_classes).repeat(2)
            y = torch.randint(num_classes, (256,), generator=self.generator)
            loss, logged = self.objective(self._draw(y_labelled), y_labelled, self._draw(y), self.generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.alive = float(logged["classes_alive"])

    def _draw(self, y: Tensor) -> Tensor:
        noise = torch.rand(len(y), 1, 28, 28, generator=self.generator)
        return 0.8 * self.templates[y] + 0.2 * noise


def arithmetic(small: bool) -> dict[str, Any]:
    """Operations a second of a step and of the best matrix product, in the precision that `auto` chooses here."""
    warm, steps, rounds = (10, 3, 3) if small else (300, 20, 7)
    found: dict[str, Any] = {}
    for decoder, precision in itertools.product(("dense", "convolutional"), ("auto", "float32")):
        trainer = make_trainer(make_params(model={"decoder": decoder}, train={"precision": precision}), "plain")
        if f"{decoder} {trainer.job.precision}" in found:
            continue  # `auto` has chosen float32
        dtype = torch.bfloat16 if trainer.job.precision == "bfloat16" else torch.float32
        with Steps(trainer) as run:
            run.take(warm)
            with FlopCounterMode(display=False) as counter:
                run.take(steps)
            operations = counter.get_total_flops() / steps
            squares = {n: torch.rand(n, n, dtype=dtype) for n in (512, 1024, 2048)}
            tasks: dict[str, Callable[[], Any]] = {"step": functools.partial(run.take, steps)}
            for n, square in squares.items():
                tasks[str(n)] = functools.partial(torch.mm, square, square)
            seconds = by_turns(tasks, rounds)
        best = max(2 * n**3 / seconds[str(n)] for n in squares)
        achieved = operations * steps / seconds["step"]
        name = f"{decoder} {trainer.job.precision}"
        found[name] = {
            "step_ms": round(1000 * seconds["step"] / steps, 1),
            "step_gflop": round(operations / 1e9, 2),
            "gflop_per_s": round(achieved / 1e9, 1),
            "matrix_product_gflop_per_s": round(best / 1e9, 1),
            "share": round(achieved / best, 3),
        }
        tell(f"{name}: {found[name]}")
    return found


def profile(small: bool) -> dict[str, Any]:
    """Shares of a step's time by kind of operation, in percent, in the precision that `auto` chooses here."""
    warm, steps = (10, 2) if small else (300, 20)
    found: dict[str, Any] = {"steps": steps}
    for decoder in ("dense", "convolutional"):
        trainer = make_trainer(make_params(model={"decoder": decoder}), "plain")
        with Steps(trainer) as run:
            run.take(warm)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
                run.take(steps)
        seconds: dict[str, float] = {}
        for event in profiler.key_averages():
            kind = next((kind for kind, names in KINDS.items() if event.key in names), "all other operators")
            seconds[kind] = seconds.get(kind, 0.0) + event.self_cpu_time_total
        total = sum(seconds.values())
        found[decoder] = {
            kind: round(100 * seconds.get(kind, 0.0) / total, 1) for kind in [*KINDS, "all other operators"]
        }
        tell(f"{decoder} decoder: {found[decoder]}")
    return found


KINDS = {
    "convolutions": ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::_slow_conv2d_forward"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "copies and casts": ("aten::copy_", "aten::_to_copy", "aten::cat", "aten::index", "aten::contiguous"),
    "optimizer": ("aten::_fused_adam_", "Optimizer.step#Adam.step", "Optimizer.zero_grad#Adam.zero_grad"),
}

PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "peer": peer,
    "pruning": pruning,
    "classes": classes,
    "arithmetic": arithmetic,
    "profile": profile,
}


def main() -> None:
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="only whether it works; writes no file")
    parser.add_argument("--only", choices=list(PARTS), help="one part")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    parts = [arguments.only] if arguments.only else list(PARTS)
    measured = {part: PARTS[part](arguments.small) for part in parts}
    rows = [row for part in parts for row in ROWS[part](measured[part])]
    keep("step", rows, arguments.small, part=arguments.only is not None)


if __name__ == "__main__":
    main()
