"""Which integer means what, when a study is a sequence of them: a fixed vocabulary without a tokenizer to download.

The values of parameters and metrics come first, so that the logits of a decoded token are a slice: bins 0 to Q - 1, and
after them what stands in place of a metric's value. Then the words of the metadata, and bytes for names.
"""

from typing import NamedTuple

from l2o.record import ALGORITHMS, MARKS

WORDS = (
    "pad", "start",
    "name", "metric", "goal", "algorithm", "parameter", "minimum", "maximum", "levels", "category",
    "float", "integer", "discrete", "categorical",
    "linear", "log", "reverse_log",
    "minimize", "maximize",
)  # fmt: skip
KINDS = ("float", "integer", "discrete", "categorical")
SCALES = ("linear", "log", "reverse_log")  # in the order of the constants in l2o.space.domain


class Vocabulary(NamedTuple):
    """The vocabulary for Q = `bins` bins of values.

    >>> words = Vocabulary(bins=256)
    >>> words.infeasible, words.outputs, words.word("float") - words.word("pad")
    (256, 258, 11)
    >>> words.algorithm("hill_climbing") < words.byte(0) < words.size
    True
    """

    bins: int

    @property
    def infeasible(self) -> int:
        """The token of a failed evaluation."""
        return self.bins

    @property
    def pending(self) -> int:
        """The token of an evaluation in progress."""
        return self.bins + 1

    @property
    def outputs(self) -> int:
        """How many tokens a decoder may produce: the first ones."""
        return self.bins + len(MARKS)

    def word(self, name: str) -> int:
        """The token of a keyword or of a value of an enumeration."""
        return self.outputs + WORDS.index(name)

    def algorithm(self, name: str) -> int:
        """The token of an algorithm."""
        return self.outputs + len(WORDS) + ALGORITHMS.index(name)

    def byte(self, value: int) -> int:
        """The token of a byte of UTF-8 text."""
        return self.outputs + len(WORDS) + len(ALGORITHMS) + value

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.byte(256)
