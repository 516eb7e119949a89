"""The solver of unbalanced optimal transport: exact to the last digits at any cost."""

from typing import NamedTuple

import numpy as np

from pipeline.errors import PipelineError
from pipeline.selection.distances import RowBlocks, blocks

# A cost of at most this many entries (64 MB) is held; a larger one is computed again when needed.
HELD = 1 << 23
# Products of the kernel are exact while no scaling is further than exp(±DRIFT) from the absorbed one,
# and no sum below SMALLEST: what was dropped, less than FLOOR an entry, is then far below rounding.
DRIFT, FLOOR, SMALLEST = 100.0, 1e-150, 1e-100
# Relative error that rounding can leave in the logarithm of a sum, generously.
ROUNDING = 16 * np.finfo(float).eps


class Plan(NamedTuple):
    """A converged transport plan, P = exp(log_u - C / epsilon + log_v).

    Attributes:
        log_u: Logarithm of the source scaling, float64 (K_g,).
        log_v: Logarithm of the target scaling, float64 (K_f,).
        log_mass: Logarithm of P1, the mass that each source unit sends, float64 (K_g,).
        log_received: Logarithm of P^T 1, the mass that each target class gets, float64 (K_f,).
        epsilon: Weight of the entropy.
        iterations: How many it took.
        accuracy: Largest error of log P1, by the last change of log u and by rounding.
    """

    log_u: np.ndarray
    log_v: np.ndarray
    log_mass: np.ndarray
    log_received: np.ndarray
    epsilon: float
    iterations: int
    accuracy: float

    @property
    def mass(self) -> float:
        """The mass of the whole plan."""
        return float(np.exp(np.logaddexp.reduce(self.log_mass)))

    def log_rows(self, cost: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Logarithm of some rows of P, float64 (rows, K_f), from their cost, (rows, K_f)."""
        return self.log_u[rows, None] - cost / self.epsilon + self.log_v


def solve(
    cost: RowBlocks,
    epsilon: float = 1.0,
    tau1: float = 1.0,
    tau2: float = 100.0,
    tolerance: float = 1e-10,
    iterations: int = 100_000,
    masses: tuple[np.ndarray, np.ndarray] | None = None,
) -> Plan:
    r"""Minimise Eq. 5 of the UOT paper by generalised Sinkhorn iteration.

    .. math::
        \min_P \langle P, C \rangle + \epsilon \sum (P \log P - P)
        + \tau_1 KL(P 1 | w) + \tau_2 KL(P^T 1 | w')

    Each half step sets the log scaling of one side to
    :math:`\frac{\tau}{\tau + \epsilon}` times log mass less the log of what the other side sends it
    (Chizat et al. 2018). It is a product with the kernel exp(-C / epsilon), into which the target
    scaling is absorbed and each row of which is brought to a largest entry of 1 (Schmitzer 2019).
    Where such a product could lose more than rounding, the sum is taken in the log domain instead.

    One step is a contraction by :math:`q = \frac{\tau_1 \tau_2}{(\tau_1 + \epsilon)(\tau_2 +
    \epsilon)}` in the largest log scaling, so that log P1 is within :math:`\frac{\tau_2}{\tau_1 +
    \tau_2 + \epsilon} < 1` times the last change of log u from the limit. That change is what
    `tolerance` bounds.

    Memory: the kernel, 8 K_g K_f bytes; the cost as well where that is at most 64 MB; and a few blocks
    of 8 MB.

    Args:
        cost: C, float64 (K_g, K_f), finite.
        epsilon: Weight of the entropy, above 0.
        tau1: Weight of the source marginal, above 0.
        tau2: Weight of the target marginal, above 0.
        tolerance: Largest error of log P1, or what rounding allows where that is more; the plan's
            `accuracy` says so.
        iterations: At most.
        masses: w, (K_g,), and w', (K_f,), all above 0; 1 by default.

    Raises:
        PipelineError: If the cost is not finite, or the iteration does not converge.
    """
    if cost.shape[0] * cost.shape[1] <= HELD:
        cost = cost[:]
    source_mass, target_mass = (0.0, 0.0) if masses is None else map(np.log, masses)
    source_power, target_power = tau1 / (tau1 + epsilon), tau2 / (tau2 + epsilon)
    kernel = _Kernel(cost, epsilon)
    log_u, log_v, change = np.full(cost.shape[0], np.inf), np.zeros(cost.shape[1]), np.inf
    for iteration in range(1, iterations + 1):
        previous, received = log_u, kernel.rows(log_v)
        log_u = source_power * (source_mass - received)
        change = np.abs(log_u - previous).max()
        largest = np.abs(received).max()
        if change <= max(tolerance, ROUNDING * largest):
            sent = kernel.columns(log_u)
            # The sums are of entries -C / epsilon + log v, which can both be far larger than the sum.
            accuracy = float(max(change, ROUNDING * (largest + np.abs(log_v).max())))
            return Plan(log_u, log_v, log_u + received, log_v + sent, epsilon, iteration, accuracy)
        log_v = target_power * (target_mass - kernel.columns(log_u))
    raise PipelineError(
        f"UOT did not converge in {iterations} iterations (change {change:.2g}, tolerance "
        f"{tolerance:.2g}); raise epsilon or iterations"
    )


class _Kernel:
    """exp(-C / epsilon) in a form whose products neither over- nor underflow.

    Held are the entries exp(-C / epsilon + anchor - offset) with a target scaling `anchor` of an
    earlier step and the `offset` of each row that makes its largest entry 1.
    """

    def __init__(self, cost: RowBlocks, epsilon: float):
        self.cost, self.epsilon = cost, epsilon
        self.entries, self.offset = np.empty(cost.shape), np.empty(cost.shape[0])
        self._absorb(np.zeros(cost.shape[1]))

    def rows(self, log_v: np.ndarray) -> np.ndarray:
        """log of the row sums of exp(-C / epsilon + log_v), float64 (K_g,)."""
        if np.abs(log_v - self.anchor).max() > DRIFT:
            self._absorb(log_v)
        return self.offset + np.log(self.entries @ np.exp(log_v - self.anchor))

    def columns(self, log_u: np.ndarray) -> np.ndarray:
        """log of the column sums of exp(log_u - C / epsilon), float64 (K_f,)."""
        shifted = log_u + self.offset
        highest = shifted.max()
        sums = _exp(shifted - highest) @ self.entries
        if sums.min() < SMALLEST:
            return self._columns_of_logarithms(log_u)
        return np.log(sums) + highest - self.anchor

    def _absorb(self, log_v: np.ndarray) -> None:
        self.anchor = log_v
        for rows in blocks(self.cost.shape):
            exponents = self._exponents(rows) + log_v
            self.offset[rows] = exponents.max(axis=1)
            exponents -= self.offset[rows, None]
            _exp(exponents, out=self.entries[rows])

    def _columns_of_logarithms(self, log_u: np.ndarray) -> np.ndarray:
        highest, sums = np.full(self.cost.shape[1], -np.inf), np.zeros(self.cost.shape[1])
        for rows in blocks(self.cost.shape):
            exponents = self._exponents(rows) + log_u[rows, None]
            higher = np.maximum(highest, exponents.max(axis=0))
            sums = sums * np.exp(highest - higher) + _exp(exponents - higher).sum(axis=0)
            highest = higher
        return np.log(sums) + highest

    def _exponents(self, rows: slice) -> np.ndarray:
        with np.errstate(over="ignore"):  # infinity is refused just below
            exponents = self.cost[rows] / -self.epsilon
        if not np.isfinite(exponents).all():
            raise PipelineError("the transport cost is not finite; are epsilon and epsilon_c too small?")
        return exponents


def _exp(exponents: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """exp of `exponents`, which it changes, with 0 for what is below `FLOOR`: tiny numbers are slow."""
    exponents[exponents < np.log(FLOOR)] = -np.inf
    return np.exp(exponents, out=out)
