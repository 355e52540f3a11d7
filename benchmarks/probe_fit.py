"""Time to fit logistic probes at every layer: ours against a scikit-learn loop over layers, at the same optimum.

Features imitate a residual stream: a power-law spectrum, a few massive directions, a large common mean, directions mixed
so that features correlate, and prompts in pairs that share most of their content. The label's direction grows with depth,
from hardly separable to separable, so that easy and hard problems are both timed.

Both sides get the same features (centred, one scale a layer) and the same C. The reference is scikit-learn's fastest
solver among those given, each with the default settings but for `tol` and `max_iter`, which are set so that it reaches
our objective to 1e-6; the objective that each side reached is printed, so that nobody wins by stopping early.

    python benchmarks/probe_fit.py            # 32 layers, 4,096 wide, 2,000 prompts
    python benchmarks/probe_fit.py --quick    # a few seconds
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from dataclasses import asdict, dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from probes.classifiers.logistic import LogisticProbe, objective


@dataclass(frozen=True)
class Row:
    """One layer."""

    layer: int
    ours_s: float
    sklearn_s: dict[str, float]
    objective_ours: float
    objective_sklearn: dict[str, float]
    gradient_ours: float
    """Largest component of the gradient of the mean loss: what scikit-learn's `tol` bounds."""
    gradient_sklearn: dict[str, float]
    max_coef_difference: float
    """Against the solver that came closest, over the largest coefficient."""
    max_decision_difference: float
    """Largest difference of a decision value, against the same solver."""


def residual_stream(layer: int, layers: int, prompts: int, width: int, seed: int) -> torch.Tensor:
    """Features [prompt width], float32; the first half of the rows are the positives, the second half their twins."""
    generator = torch.Generator().manual_seed(seed * 1000 + layer)
    half = prompts // 2

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    spread = torch.arange(1, width + 1, dtype=torch.float64) ** -0.5
    spread[:4] *= 10
    content, signal = normal(half, width), normal(width) * spread
    twin = 0.9 * content + (1 - 0.9**2) ** 0.5 * normal(half, width)
    x = torch.cat([content, twin]) * spread
    x[:half] += 3 * (layer + 1) / layers * signal / torch.linalg.vector_norm(signal)
    block = min(256, width)
    mix = torch.linalg.qr(normal(block, block)).Q
    x = (x.reshape(prompts, width // block, block) @ mix).reshape(prompts, width) + 3 * spread.mean() * normal(width)
    x -= x.mean(0)
    return (x / x.square().mean().sqrt()).float()


def measure(
    features: torch.Tensor, y: torch.Tensor, C: float, timed: list[int], solvers: dict[str, float]
) -> list[Row]:
    """Fit the layers in `timed` by ours and by each scikit-learn solver, and all layers by ours in one call."""
    LogisticProbe(C).fit(features[:64, :1, :64], y[torch.arange(64) * (len(y) // 64)])  # load the libraries first
    rows = []
    for layer in timed:  # side by side, layer by layer, so that other load on the machine falls on both
        start = time.perf_counter()
        ours = LogisticProbe(C).fit(features[:, layer : layer + 1], y)
        seconds_ours = time.perf_counter() - start
        x, labels = features[:, layer].double().numpy(), y.numpy()
        fits = {name: reference(x, labels, C, name, tol) for name, tol in solvers.items()}
        tensors = {name: (torch.tensor(f.coef_), torch.tensor(f.intercept_)) for name, (f, _) in fits.items()}
        single = features[:, layer : layer + 1]
        theirs = {name: float(objective(single, y, *pair, C)[0]) for name, pair in tensors.items()}
        coef, intercept = ours.coef_[0], ours.intercept_[0]
        closest = min(theirs, key=lambda name: theirs[name])
        best, best_intercept = tensors[closest][0][0], tensors[closest][1][0]
        decision = torch.from_numpy(x) @ (coef - best) + (intercept - best_intercept)
        rows.append(
            Row(
                layer=layer,
                ours_s=seconds_ours,
                sklearn_s={name: seconds for name, (_, seconds) in fits.items()},
                objective_ours=float(objective(single, y, ours.coef_, ours.intercept_, C)[0]),
                objective_sklearn=theirs,
                gradient_ours=gradient(x, labels, C, coef.numpy(), float(intercept)),
                gradient_sklearn={
                    name: gradient(x, labels, C, w[0].numpy(), float(b[0])) for name, (w, b) in tensors.items()
                },
                max_coef_difference=float((coef - best).abs().max() / coef.abs().max()),
                max_decision_difference=float(decision.abs().max()),
            )
        )
        print_row(rows[-1])
    start = time.perf_counter()
    LogisticProbe(C).fit(features, y)
    print(f"ours, all {features.shape[1]} layers in one call: {time.perf_counter() - start:.2f} s", flush=True)
    return rows


def reference(x: np.ndarray, y: np.ndarray, C: float, solver: str, tol: float) -> tuple[LogisticRegression, float]:
    """One scikit-learn fit (float64) and its seconds."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lbfgs warns where rounding stops it just above so small a tol
        fitted = LogisticRegression(C=C, solver=solver, tol=tol, max_iter=20_000).fit(x, y)
    return fitted, time.perf_counter() - start


def gradient(x: np.ndarray, y: np.ndarray, C: float, coef: np.ndarray, intercept: float) -> float:
    """Largest component of the gradient of the mean loss, in float64."""
    residual = y - 1 / (1 + np.exp(-(x @ coef + intercept)))
    by_coef = (coef - C * (x.T @ residual)) / (C * len(y))
    return float(max(np.abs(by_coef).max(), abs(residual.mean())))


def print_row(row: Row) -> None:
    """One line of the table."""
    parts = [
        f"{name} {seconds:7.2f} s  objective {row.objective_sklearn[name]:.7f}  gradient {row.gradient_sklearn[name]:.0e}"
        for name, seconds in row.sklearn_s.items()
    ]
    ours = f"ours {row.ours_s:6.2f} s  objective {row.objective_ours:.7f}  gradient {row.gradient_ours:.0e}"
    differences = f"coef {row.max_coef_difference:.0e}  decision {row.max_decision_difference:.0e}"
    print(f"layer {row.layer:2d} | {ours} | " + " | ".join(parts) + f" | {differences}", flush=True)


def summarise(rows: list[Row]) -> dict[str, object]:
    """Speed-up over scikit-learn's fastest solver on each layer, and how far the optima are apart."""
    fastest = [min(row.sklearn_s.values()) for row in rows]
    by_solver = {name: sum(r.sklearn_s[name] for r in rows) / sum(r.ours_s for r in rows) for name in rows[0].sklearn_s}
    apart = [min(row.objective_sklearn.values()) / row.objective_ours - 1 for row in rows]
    return {
        "speed_up": sum(fastest) / sum(row.ours_s for row in rows),
        "speed_up_by_solver": by_solver,
        "reference": "scikit-learn, the fastest of " + ", ".join(rows[0].sklearn_s) + " on each layer",
        "sklearn_objective_excess_range": [min(apart), max(apart)],
        "max_coef_difference": max(row.max_coef_difference for row in rows),
        "max_decision_difference": max(row.max_decision_difference for row in rows),
        "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(),
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--C", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="time scikit-learn on every n-th layer only")
    parser.add_argument("--solvers", default="lbfgs=1e-6,newton-cg=1e-6", help="solver=tol, comma-separated")
    parser.add_argument("--quick", action="store_true", help="4 layers, 256 wide, 200 prompts")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    if args.quick:
        args.layers, args.width, args.prompts = 4, 256, 200
    y = (torch.arange(args.prompts) < args.prompts // 2).long()
    print(f"{args.layers} layers, width {args.width}, {args.prompts} prompts, C = {args.C:g}", flush=True)
    layers = [residual_stream(i, args.layers, args.prompts, args.width, args.seed) for i in range(args.layers)]
    solvers = {name: float(tol) for name, tol in (item.split("=") for item in args.solvers.split(","))}
    rows = measure(torch.stack(layers, 1), y, args.C, list(range(0, args.layers, args.every)), solvers)
    summary = summarise(rows)
    print("\n".join(f"{name}: {value}" for name, value in summary.items()))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as stream:
            json.dump({"summary": summary, "settings": vars(args), "rows": [asdict(r) for r in rows]}, stream, indent=2)


if __name__ == "__main__":
    main()
