"""How an optimizer is learned. Importing a file here registers its kinds."""

from meta import estimator as estimator
from meta import learner as learner
from meta import objective as objective
from meta import recordings as recordings
