"""The functions of BBOB: continuous, and with other kinds of parameters. Importing a file here registers its kinds."""

from tasks.bbob import bbob as bbob
from tasks.bbob import mixed as mixed
