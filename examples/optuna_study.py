"""An Optuna study with the OptFormer as its sampler.

It needs Optuna: `pip install '.[optuna]'`. The sampler reads the study as a sequence, its name included. "gp_ei" or any
other optimizer in its place sees the kinds and scales of the parameters.
"""

import optuna
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

import l2o

images, labels = load_digits(return_X_y=True)


def accuracy(trial):
    model = SVC(
        C=trial.suggest_float("C", 1e-3, 1e3, log=True),
        gamma=trial.suggest_float("gamma", 1e-6, 1.0, log=True),
        kernel=trial.suggest_categorical("kernel", ["rbf", "poly", "sigmoid"]),
    )
    return cross_val_score(model, images[:400], labels[:400], cv=3).mean()


optuna.logging.set_verbosity(optuna.logging.WARNING)
sampler = l2o.Sampler("optformer", seed=0)
study = optuna.create_study(study_name="SVM on digits", direction="maximize", sampler=sampler)
study.optimize(accuracy, n_trials=15)
print(f"accuracy {study.best_value:.3f} with {study.best_params}")
assert study.best_value > 0.85
