"""Who learns: the meta-optimizers, and imitation of recorded studies. Importing a file here registers its kinds."""

from meta.learner import evolution as evolution
from meta.learner import gradient as gradient
from meta.learner import imitation as imitation
from meta.learner import prior_fitting as prior_fitting
