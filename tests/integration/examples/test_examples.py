"""Every experiment at its CPU size, through a server; what is asserted are values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import decoder_transformer
import full_vs_first_order
import hessian_spectrum
import maml_backends
import maml_depth
import pytest
import vit
from server_process import server_binary

pytestmark = pytest.mark.timeout(1800)


def check_files(folder: Path, name: str, rows: int) -> list[dict[str, Any]]:
    """The four files of an experiment; returns the rows."""
    document = json.loads((folder / f"{name}.json").read_text())
    assert len((folder / f"{name}.tsv").read_text().splitlines()) == 1 + rows
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (folder / f"{name}.svg").read_text()
    assert len(document["rows"]) == rows
    kept: list[dict[str, Any]] = document["rows"]
    return kept


def test_maml_backends(target: str, tmp_path: Path) -> None:
    summary = maml_backends.main(["--target", target, f"--out={tmp_path}"])
    rows = check_files(tmp_path, "maml_backends", 2 * 3 * (1 + 2 + 3))
    # The table: every implementation has the reference's rel_diff, whatever the method.
    assert summary["largest_rel_diff_deviation"] < 1e-9
    assert summary["largest_error"] < 1e-9
    for row in rows:
        assert row["second_order_path"] is (row["mode"] != "fo_strict")
        if row["control"] and row["mode"] == "full":
            assert 0.05 < row["error"] < 1.5
    # The planted backend keeps its first-order meta-gradient and loses curvature.
    planted = [r for r in rows if r["attention"].startswith("backward: raw kernel")]
    exact = {(r["seed"]): r["rel_diff"] for r in rows if r["attention"].startswith("PyTorch")}
    for row in planted:
        assert row["rel_diff"] < 0.75 * exact[row["seed"]]
        if row["mode"] != "full":
            assert row["error"] < 1e-9


def test_maml_depth(target: str, tmp_path: Path) -> None:
    arguments = ["--target", target, f"--out={tmp_path}", "--seeds=2"]
    summary = maml_depth.main([*arguments, "--steps", "1", "5", "10"])
    check_files(tmp_path, "maml_depth", 2 * 2 * 3 * 2)
    assert summary["largest_error"] < 1e-9
    means = {(f["attention"], f["inner_lr"]): f["mean"] for f in summary["monotone"]}
    for rate in maml_depth.RATES:
        exact, lossy = means[maml_depth.EXACT, rate], means[maml_depth.LOSSY, rate]
        assert all(a > 1.2 * b for a, b in zip(exact, lossy, strict=True))
    slow, fast = (means[maml_depth.EXACT, rate] for rate in maml_depth.RATES)
    assert slow[0] < 0.1 < slow[1] < slow[2]
    assert fast[1] > 3 * fast[0] * 0.8
    (finding,) = (
        f for f in summary["monotone"] if (f["attention"], f["inner_lr"]) == (maml_depth.EXACT, 0.1)
    )
    assert not finding["falls"]
    assert finding["monotone_tasks"] == finding["tasks"] == 2


def test_full_vs_first_order(target: str, tmp_path: Path) -> None:
    arguments = ["--target", target, f"--out={tmp_path}", "--outer-steps=6", "--held-out=4"]
    names = ["sinusoid", "in-context regression"]
    summary = full_vs_first_order.main([*arguments, "--problems", *names])
    rows = check_files(tmp_path, "full_vs_first_order", 2 * 3 * 6)
    by_mode = {mode: [r for r in rows if r["mode"] == mode] for mode in ("full", "fo", "fo_strict")}
    for full, fo, strict in zip(*by_mode.values(), strict=True):
        assert strict["loss"] == fo["loss"]
        assert strict["gradient_norm"] == fo["gradient_norm"]
        assert full["gradient_norm"] != fo["gradient_norm"]
        if full["outer_step"] == 0:
            assert full["loss"] == fo["loss"]
    for outcome in summary["outcomes"]:
        assert outcome["held_out_after"] < outcome["held_out_before"]
        if outcome["baseline"] is not None:
            assert outcome["baseline"] < 1e-20  # ten exact points determine five weights


def test_digits(target: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    arguments = ["--target", target, f"--out={tmp_path}", "--outer-steps=4", "--held-out=3"]
    summary = full_vs_first_order.main([*arguments, "--problems", "digits"])
    rows = check_files(tmp_path, "full_vs_first_order", 3 * 4)
    assert len({row["loss"] for row in rows if row["outer_step"] == 0}) == 1
    for outcome in summary["outcomes"]:
        assert 0 < outcome["held_out_after"] < 2 * outcome["held_out_before"]


def test_decoder_transformer(target: str, tmp_path: Path) -> None:
    summary = decoder_transformer.main(["--target", target, f"--out={tmp_path}"])
    check_files(tmp_path, "decoder_transformer", 200 * 2)
    assert 1.3 < summary["first_loss"] < 2.0
    assert max(summary["last_losses"].values()) < 0.05
    assert summary["largest_difference"] < 1e-4


def test_decoder_transformer_options(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target", target, f"--out={tmp_path}", "--task=random", "--steps=5", "--verbose"]
    arguments += ["--implementations", "torch", "auto", "--d-model=32", "--n-heads=2", "--seed=3"]
    summary = decoder_transformer.main([*arguments, "--dtype=float64"])
    check_files(tmp_path, "decoder_transformer", 5 * 3)
    assert summary["largest_difference"] < 1e-9  # Adam divides by small second moments
    printed = capsys.readouterr().out
    assert "auto: q (8, 2, 32, 16)" in printed
    assert "step 4 torch: loss" in printed
    with pytest.raises(SystemExit):
        decoder_transformer.main(["--d-model=30", "--n-heads=4"])


def test_vit(target: str, tmp_path: Path) -> None:
    arguments = ["--target", target, f"--out={tmp_path}", "--batch=1", "--repeats=1"]
    summary = vit.main(arguments)
    rows = check_files(tmp_path, "vit", 3)
    assert {row["attention"] for row in rows} == {"explicit", "torch", "reference"}
    for row in rows:
        assert 0 < row["output_error"] < 2 * summary["peer_output_error"] + 1e-6
        assert 0 < row["gradient_error"] < 2 * summary["peer_gradient_error"] + 1e-6
        assert row["forward_ratio"] > 0
        assert row["backward_ratio"] > 0


def test_hessian_spectrum(target: str, tmp_path: Path) -> None:
    arguments = ["--target", target, f"--out={tmp_path}", "--train-steps=20"]
    summary = hessian_spectrum.main(arguments)
    rows = check_files(tmp_path, "hessian_spectrum", 2 * hessian_spectrum.OUTERMOST)
    assert summary["parameters"] == 645
    for row in rows:
        if row["rank"] <= 3:
            assert row["lanczos"] == pytest.approx(row["dense"], rel=1e-8)
    for trace in summary["trace"].values():
        assert abs(trace["quadrature"] - trace["dense"]) < 4 * trace["standard_error"]


def test_an_experiment_starts_a_server_of_its_own(tmp_path: Path) -> None:
    arguments = [f"--server={server_binary()}", f"--out={tmp_path}", "--steps=2"]
    summary = decoder_transformer.main(arguments)
    assert summary["largest_difference"] < 1e-5
    assert not list((tmp_path / "logs").glob("*.port"))
