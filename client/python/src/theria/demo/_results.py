"""All results of the demonstration."""

from __future__ import annotations

from dataclasses import dataclass

import theria
from theria.demo._commands import MAML_RATE, MAML_SEED, MAML_STEPS, MamlCommand, ParityRun
from theria.demo._experiment import ModeRow, Training

__all__ = ["ERROR_LIMIT", "Results"]

ERROR_LIMIT = 1e-9  # of a meta-gradient in float64, relative


@dataclass(frozen=True)
class Results:
    """The results of one run. `seconds`: from the start of the servers."""

    info: theria.ServerInfo
    parity: ParityRun
    command: MamlCommand
    rows: list[ModeRow]
    training: list[Training]
    seconds: float

    @property
    def worst_error(self) -> float:
        """The largest error of all meta-gradients, compared with the local unrolled loop."""
        return max(row.error for row in self.rows)

    @property
    def command_difference(self) -> float:
        """The relative difference between `theria maml` and the Python client."""
        (row,) = (
            row
            for row in self.rows
            if (row.seed, row.inner_lr, row.inner_steps, row.mode)
            == (MAML_SEED, MAML_RATE, MAML_STEPS, "full")
        )
        return max(
            abs(self.command.rel_diff / row.rel_diff - 1.0),
            abs(self.command.loss / row.loss_after - 1.0),
        )

    @property
    def checks(self) -> dict[str, bool]:
        """The checks, and whether they hold."""
        return {
            f"parity: {self.parity.held} cases within tolerance, {self.parity.failed} not": (
                self.parity.failed == 0 and self.parity.held > 0
            ),
            "meta-gradients through the server equal those of the unrolled loop in this process: "
            f"relative error at most {self.worst_error:.1e}, limit {ERROR_LIMIT:.0e}": (
                self.worst_error <= ERROR_LIMIT
            ),
            "second-order path: there for full and fo, absent for fo_strict": all(
                row.second_order_path is (row.mode != "fo_strict") for row in self.rows
            ),
            "`theria maml` agrees with the Python client: relative difference "
            f"{self.command_difference:.1e}, limit {ERROR_LIMIT:.0e}": (
                self.command.held and self.command_difference <= ERROR_LIMIT
            ),
        }

    @property
    def held(self) -> bool:
        """Whether all checks hold."""
        return all(self.checks.values())
