"""How an optimizer is learned. Importing a file here registers its kinds."""

from meta import estimator as estimator
from meta import imitation as imitation
from meta import imports as imports
from meta import objective as objective
from meta import recorded as recorded
from meta import rollouts as rollouts
