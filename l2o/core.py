"""The contract: every iterative optimizer is a sequence model over its own history.

`x_{t+1} = A_theta(x_{1:t}, y_{1:t}; context)`. A coordinatewise LSTM that reads gradients, an RNN that proposes
queries, a learned evolution strategy and a transformer that reads a study as text are four architectures of `A`;
all of them are an `Optimizer`, and so is every hand-designed baseline.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from l2o.errors import UserError
from l2o.registry import Config
from l2o.space.domain import Space, X

State = Any  # an optimizer's state: a pytree of arrays with a stable structure
Theta = Any  # meta-parameters: a pytree of arrays
Carry = Any  # the running state of an objective


class Problem(NamedTuple):
    """What an optimizer may know before its first query. A pytree of data.

    Attributes:
      space: the domain.
      start: first point (gradient-based) or centre (population-based).
      scale: initial step size or sigma_0, in the space's own units.
      horizon: number of steps the run will have; data, so that changing it does not recompile.
      context: encoded metadata, for example token ids.
    """

    space: Space
    start: X
    scale: Float[Array, ""] | float = 1.0
    horizon: Int[Array, ""] | int = 100
    context: Any = None


JUDGE = 3  # folded into an evaluation's key for what only a meta-loss scores


class Evaluation(NamedTuple):
    """What an optimizer is told about its n queries.

    Attributes:
      value: objective values, always minimised; NaN or +inf marks a failed query.
      gradient: gradients with a leading axis n, or None for black-box tasks.
      judged: what a meta-loss scores in place of the value, for example a loss on data that the gradient never sees;
        None where that is the value itself. It is never told to an optimizer.
    """

    value: Float[Array, "n"]
    gradient: X | None = None
    judged: Float[Array, "n"] | None = None


class Optimizer(NamedTuple):
    """Three pure functions, fit for jit, vmap and scan.

    Attributes:
      init: `(key, Problem) -> State`.
      ask: `(key, State) -> (X[n, ...], State)`; always a leading axis n, point methods have n = 1. May be called
        again before `tell`.
      tell: `(key, State, X[n, ...], Evaluation) -> State`.
    """

    init: Callable[[PRNGKeyArray, Problem], State]
    ask: Callable[[PRNGKeyArray, State], tuple[X, State]]
    tell: Callable[[PRNGKeyArray, State, X, Evaluation], State]


class HostOptimizer(NamedTuple):
    """The same three functions for what cannot be traced: ordinary Python, called on the host, for use in host loops.

    Attributes:
      init: as in `Optimizer`.
      ask: as in `Optimizer`.
      tell: as in `Optimizer`.
    """

    init: Callable[[PRNGKeyArray, Problem], State]
    ask: Callable[[PRNGKeyArray, State], tuple[X, State]]
    tell: Callable[[PRNGKeyArray, State, X, Evaluation], State]


class LearnedOptimizer(NamedTuple):
    """An architecture: meta-parameters in, optimizer out.

    Attributes:
      init: `(key) -> Theta`, fresh meta-parameters.
      bind: `(Theta) -> Optimizer`; pure, so that one differentiates and vmaps straight through it.
      native: `(Theta, horizon, label) -> optax.GradientTransformationExtraArgs` for gradient-based families, else None;
        horizon and label, roles of leaves that are known, are for those that read them and may be left out.
      log_prob: `(Theta, Problem, Trajectory) -> {"x": Float[T], "y": Float[T]}` for families with a likelihood,
        else None.
      surrogate: `l2o.surrogate.prediction.Surrogate` of families that predict values at any point, else None.
    """

    init: Callable[[PRNGKeyArray], Theta]
    bind: Callable[[Theta], Optimizer]
    native: Callable[..., optax.GradientTransformationExtraArgs] | None = None
    log_prob: Callable[[Theta, Problem, "Trajectory"], dict[str, Array]] | None = None
    surrogate: Any = None


class Trajectory(NamedTuple):
    """A history `(x, y)_{1:T}`.

    Attributes:
      x: queries with leading axes [T, n], or None where the caller kept values alone.
      evaluation: what was told, leading axes [T, n].
      mask: which steps lie within the problem's horizon.
    """

    x: X
    evaluation: Evaluation
    mask: Bool[Array, "T"]


class Task(NamedTuple):
    """One thing to optimize.

    Attributes:
      problem: what the optimizer may know.
      evaluate: `(key, X[n, ...]) -> Evaluation`.
      measure: `(key, X) -> dict` of held-out loss, accuracy, ... at one point (no leading axis), for reports; never
        seen by the optimizer.
      info: what only a judge may know, for example the optimum.
    """

    problem: Problem
    evaluate: Callable[[PRNGKeyArray, X], Evaluation]
    measure: Callable[[PRNGKeyArray, X], dict[str, Array]] = lambda key, x: {}
    info: dict[str, Any] = {}

    @classmethod
    def from_loss(
        cls,
        loss: Callable[[PRNGKeyArray, X], Float[Array, ""]],
        problem: Problem,
        *,
        judge: Callable[[PRNGKeyArray, X, Float[Array, ""]], Float[Array, ""]] | None = None,
        **kwargs,
    ) -> "Task":
        """A differentiable task from `loss(key, x) -> scalar`. The one place where inner gradients are taken.

        With `judge(key, x, value)` a meta-loss scores what that returns, see `Evaluation.judged`.

        For n = 1 the leading axis is squeezed rather than vmapped over, which keeps a lifted optimizer equal to a
        plain loop to the last bit.
        """
        value_and_grad = jax.value_and_grad(loss, argnums=1)

        def evaluate(key: PRNGKeyArray, x: X) -> Evaluation:
            n = population_size(x)
            if n == 1:
                point = jax.tree.map(lambda a: a[0], x)
                value, gradient = value_and_grad(key, point)
                judged = None if judge is None else judge(jax.random.fold_in(key, JUDGE), point, value)[None]
                return Evaluation(value[None], jax.tree.map(lambda a: a[None], gradient), judged)
            keys = jax.random.split(key, n)
            value, gradient = jax.vmap(value_and_grad)(keys, x)
            if judge is None:
                return Evaluation(value, gradient)
            judge_keys = jax.vmap(lambda k: jax.random.fold_in(k, JUDGE))(keys)
            return Evaluation(value, gradient, jax.vmap(judge)(judge_keys, x, value))

        return cls(problem, evaluate, **kwargs)

    def with_horizon(self, horizon: Int[Array, ""] | int) -> "Task":
        """The same task with another number of steps."""
        return self._replace(problem=self.problem._replace(horizon=jnp.asarray(horizon)))


class Objective(NamedTuple):
    """A running meta-loss over the history, so that it survives truncation.

    Attributes:
      init: `(Task) -> Carry`.
      step: `(Carry, t, X[n, ...], Evaluation) -> (Carry, loss)`, where t counts the updates made so far.
      queries: whether `step` reads X; otherwise it is given None, because X may be a large network.
    """

    init: Callable[[Task], Carry]
    step: Callable[[Carry, Any, X, Evaluation], tuple[Carry, Float[Array, ""]]]
    queries: bool = False


class OptimizerConfig(Config):
    """Room of the learned optimizers; a subclass lives beside its architecture and builds it."""

    kind: str

    @property
    def reads_gradients(self) -> bool:
        """Whether its optimizer needs gradients: those do that have a native form."""
        return self.build().native is not None

    def build(self) -> LearnedOptimizer:
        """The architecture this configuration describes."""
        raise TypeError(f"{type(self).__name__} does not define build()")


class BaselineConfig(Config):
    """Room of the hand-designed optimizers; what a class of it can do, it says.

    Attributes:
      reads_gradients: whether its optimizer needs gradients.
      tuned: whether a study tunes its learning rate where the configuration leaves it out.
    """

    reads_gradients: ClassVar[bool] = False
    tuned: ClassVar[bool] = False
    kind: str

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.kind

    @property
    def lacks(self) -> str:
        """A sentence on what it needs beside this project and was not given, such as a file; empty for nothing."""
        return ""

    def build(self) -> Optimizer | HostOptimizer:
        """The optimizer this configuration describes."""
        raise TypeError(f"{type(self).__name__} does not define build()")


def population_size(x: X) -> int:
    """Length of the leading axis that all leaves of a batch of queries share (1 for an empty tree)."""
    leaves = jax.tree.leaves(x)
    return leaves[0].shape[0] if leaves else 1


def need_bounds(name: str, problem: Problem) -> None:
    """Refuse a free space.

    Raises:
      UserError: the problem has no bounds.
    """
    if problem.space.is_free:
        raise UserError(f"{name} needs a space with bounds, and this problem has none")


def state_bytes(optimizer: Optimizer) -> float:
    """Bytes of state that an optimizer keeps for each float32 parameter, beside the point itself.

    What it keeps whatever the number of parameters is not counted. Nothing is allocated.

    >>> import optax, l2o
    >>> l2o.state_bytes(l2o.from_optax(optax.adam(1e-3)))
    8.0
    """

    def size(n: int) -> int:
        state = jax.eval_shape(optimizer.init, jax.random.key(0), Problem(Space.free(), jnp.zeros(n)))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    return (size(2048) - size(1024)) / 1024 - 4
