"""Who learns: the meta-optimizers, and imitation of recorded studies. Importing a file here registers its kinds."""

from meta.learner import base as base
from meta.learner import imitation as imitation
