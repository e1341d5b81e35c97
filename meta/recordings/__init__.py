"""Recorded studies to train on: made, imported, stored, read. Importing a file here registers its kinds."""

from meta.recordings import imports as imports
from meta.recordings import recorded as recorded
from meta.recordings import rollouts as rollouts
