"""Hand-designed optimizers, wrapped. Importing a file here registers its kinds."""

from l2o.baselines import eagle as eagle
from l2o.baselines import evosax as evosax
from l2o.baselines import gp as gp
from l2o.baselines import grid as grid
from l2o.baselines import hebo as hebo
from l2o.baselines import hyperball as hyperball
from l2o.baselines import mutation as mutation
from l2o.baselines import normuon as normuon
from l2o.baselines import optax as optax
from l2o.baselines import optuna as optuna
from l2o.baselines import polar as polar
from l2o.baselines import scatter as scatter
from l2o.baselines import schedule_free as schedule_free
from l2o.baselines import search as search
from l2o.baselines import shampoo as shampoo
from l2o.baselines import smac as smac
from l2o.baselines import soap as soap
