"""Models of scikit-learn, datasets that come with it, and what a setting of a model is worth on a dataset.

Everything is on the host and deterministic. The rows that `tasks.hpo.hpo` interpolates are made with `score`, and a
tuned setting can be checked with it.
"""

import functools
import warnings
from typing import Any, Literal, get_args

import numpy as np

from l2o.space.searchspace import SearchSpace

Dataset = Literal["digits", "breast_cancer", "wine", "diabetes"]
Model = Literal[
    "knn", "svm", "decision_tree", "random_forest", "gradient_boosting", "mlp", "ada_boost", "elastic_net"
]  # fmt: skip
DATASETS: tuple[Dataset, ...] = get_args(Dataset)
MODELS: tuple[Model, ...] = get_args(Model)
WORST = {"r2": -1.0, "mae": 2.0, "log_loss": 20.0}  # where a fit diverges, values are cut here
GOALS = {"accuracy": "maximize", "log_loss": "minimize", "f1_macro": "maximize", "r2": "maximize", "mae": "minimize"}
VIEWS = 4  # of a dataset: 0 is all of it, the others are random parts of its rows and columns
ROWS = 400  # most rows of a dataset that are used
FOLDS = 3

TREES = {"kind": "integer", "low": 4, "high": 64, "scale": "log"}
DEPTH = {"kind": "integer", "low": 1, "high": 16}
LEAF = {"kind": "integer", "low": 1, "high": 50, "scale": "log"}
SPACES = {
    "knn": SearchSpace.from_dict({
        "n_neighbors": {"kind": "integer", "low": 1, "high": 50, "scale": "log"},
        "weights": ["uniform", "distance"],
        "p": {"kind": "discrete", "values": [1, 1.5, 2, 3, 4]},
    }),
    "svm": SearchSpace.from_dict({
        "C": {"kind": "float", "low": 1e-3, "high": 1e3, "scale": "log"},
        "gamma": {"kind": "float", "low": 1e-5, "high": 10.0, "scale": "log"},
        "kernel": ["rbf", "sigmoid"],
    }),
    "decision_tree": SearchSpace.from_dict({
        "max_depth": DEPTH,
        "min_samples_leaf": LEAF,
        "max_features": (0.1, 1.0),
        "ccp_alpha": {"kind": "float", "low": 1e-5, "high": 0.1, "scale": "log"},
    }),
    "random_forest": SearchSpace.from_dict({
        "n_estimators": TREES,
        "max_depth": DEPTH,
        "max_features": (0.1, 1.0),
        "min_samples_leaf": LEAF,
    }),
    "gradient_boosting": SearchSpace.from_dict({
        "n_estimators": TREES,
        "learning_rate": {"kind": "float", "low": 0.01, "high": 1.0, "scale": "log"},
        "max_depth": {"kind": "integer", "low": 1, "high": 6},
        "subsample": (0.3, 1.0),
    }),
    "mlp": SearchSpace.from_dict({
        "hidden_units": {"kind": "integer", "low": 4, "high": 128, "scale": "log"},
        "alpha": {"kind": "float", "low": 1e-6, "high": 10.0, "scale": "log"},
        "learning_rate_init": {"kind": "float", "low": 1e-4, "high": 0.3, "scale": "log"},
        "activation": ["relu", "tanh", "logistic"],
    }),
    "ada_boost": SearchSpace.from_dict({
        "n_estimators": TREES,
        "learning_rate": {"kind": "float", "low": 0.01, "high": 2.0, "scale": "log"},
        "max_depth": {"kind": "integer", "low": 1, "high": 6},
    }),
    "elastic_net": SearchSpace.from_dict({
        "alpha": {"kind": "float", "low": 1e-6, "high": 10.0, "scale": "log"},
        "l1_ratio": (0.0, 1.0),
        "eta0": {"kind": "float", "low": 1e-4, "high": 1.0, "scale": "log"},
    }),
}  # fmt: skip


def metrics(dataset: str, model: str) -> tuple[str, str]:
    """Names of the two metrics of a task; `GOALS` says which way each goes."""
    if dataset == "diabetes":
        return "r2", "mae"
    return ("accuracy", "f1_macro") if model == "svm" else ("accuracy", "log_loss")


def title(dataset: str, model: str, view: int = 0) -> str:
    """What a study of the task is called."""
    return f"{model} on {dataset}" + (f", part {view}" if view else "")


@functools.lru_cache
def data(dataset: str, view: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets of at most `ROWS` rows; a view but 0 keeps half of the columns and of the rows."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{dataset}")(return_X_y=True)
    random = np.random.default_rng([DATASETS.index(dataset), view])  # pyright: ignore[reportArgumentType]
    rows = random.permutation(len(x))[:ROWS]
    if view:
        rows = rows[: max(len(rows) // 2, 120)]
        x = x[:, np.sort(random.permutation(x.shape[1])[: (x.shape[1] + 1) // 2])]
    return x[rows], y[rows]


def estimator(dataset: str, model: str, setting: dict[str, Any]) -> Any:
    """An unfitted estimator of scikit-learn."""
    from sklearn import ensemble, linear_model, neighbors, neural_network, svm, tree
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = dataset == "diabetes"

    def pick(module: Any, name: str) -> Any:
        return getattr(module, name + ("Regressor" if regression else "Classifier"))

    if model == "knn":
        made = pick(neighbors, "KNeighbors")(**setting)
    elif model == "svm":
        made = (svm.SVR if regression else svm.SVC)(**setting, max_iter=20_000)
    elif model == "decision_tree":
        made = pick(tree, "DecisionTree")(**setting, random_state=0)
    elif model == "random_forest":
        made = pick(ensemble, "RandomForest")(**setting, random_state=0)
    elif model == "gradient_boosting":
        made = pick(ensemble, "GradientBoosting")(**setting, random_state=0)
    elif model == "mlp":
        rest = {name: value for name, value in setting.items() if name != "hidden_units"}
        made = pick(neural_network, "MLP")(
            hidden_layer_sizes=(setting["hidden_units"],), **rest, max_iter=20, random_state=0
        )
    elif model == "ada_boost":
        rest = {name: value for name, value in setting.items() if name != "max_depth"}
        weak = pick(tree, "DecisionTree")(max_depth=setting["max_depth"])
        made = pick(ensemble, "AdaBoost")(weak, **rest, random_state=0)
    else:
        loss = "squared_error" if regression else "log_loss"
        made = pick(linear_model, "SGD")(
            loss=loss, penalty="elasticnet", learning_rate="invscaling", **setting, random_state=0
        )
    return make_pipeline(StandardScaler(), made)


def score(dataset: str, model: str, setting: dict[str, Any], view: int = 0) -> dict[str, float]:
    """The metrics of a setting, means over folds, at worst `WORST`; NaN where fitting fails.

    Targets of a regression are standardized, so that `mae` is in standard deviations.
    """
    from sklearn.model_selection import KFold, StratifiedKFold, cross_validate

    x, y = data(dataset, view)
    regression = dataset == "diabetes"
    if regression:
        y = (y - y.mean()) / y.std()
    folds = (KFold if regression else StratifiedKFold)(FOLDS, shuffle=True, random_state=0)
    scorers = {"accuracy": "accuracy", "log_loss": "neg_log_loss", "f1_macro": "f1_macro", "r2": "r2"}
    names = metrics(dataset, model)
    chosen = {name: scorers.get(name, "neg_mean_absolute_error") for name in names}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = cross_validate(estimator(dataset, model, setting), x, y, cv=folds, scoring=chosen)
        except ValueError:  # a fit that diverged beyond what numbers can say
            return dict.fromkeys(names, float("nan"))
    return {
        name: _cut(
            name,
            float(
                np.mean(np.abs(found[f"test_{name}"])) if scorer.startswith("neg_") else np.mean(found[f"test_{name}"])
            ),
        )
        for name, scorer in chosen.items()
    }


def _cut(name: str, value: float) -> float:
    worst = WORST.get(name, 0.0)
    return min(value, worst) if GOALS[name] == "minimize" else max(value, worst)
