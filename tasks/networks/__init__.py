"""Networks that learn from real data, as tasks: what is optimized are their weights. One file is one family."""

from tasks.networks import autoencoder as autoencoder
from tasks.networks import characters as characters
from tasks.networks import classifiers as classifiers
from tasks.networks import convolutions as convolutions
from tasks.networks import coordinates as coordinates
from tasks.networks import factorisation as factorisation
from tasks.networks import regression as regression
from tasks.networks import vision as vision
