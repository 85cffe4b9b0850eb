"""The regressors that the authors of GRepQ name for few ratings. Needs scikit-learn, which nothing else does.

Their README: "An SVR (ridge regression)", alpha from {0.1, 1, 10, 100}; how it is chosen, and the fit itself, are not
published. Here the training ratings of a draw alone decide, features are taken as they are, and ratings as they count.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

Floats = NDArray[np.floating]
Predict = Callable[[Floats], NDArray[np.float64]]

#: Penalties tried: alpha of the ridge regression, C of the SVR.
PENALTIES = (0.1, 1.0, 10.0, 100.0)
FOLDS = 5


def fit_published_ridge(features: Floats, mos: Floats) -> Predict:
    """Fits ridge regression with the alpha of least leave-one-out error; features are not standardised.

    Args:
        features: (N, D) features.
        mos: (N,) ratings.

    Returns:
        From (M, D) features to (M,) float64 predicted ratings.

    Raises:
        ValueError: There are too few ratings, or values are not finite.
    """
    predict: Predict = RidgeCV(alphas=PENALTIES).fit(features.astype(np.float64), mos).predict
    return predict


def fit_svr(features: Floats, mos: Floats) -> Predict:
    """Fits an SVR (radial kernel of scikit-learn's usual width) with the C of least error in 5-fold cross-validation.

    Ratings are standardised for the fit, since the width of its tube is on their scale; features are not.

    Args:
        features: (N, D) features.
        mos: (N,) ratings.

    Returns:
        From (M, D) features to (M,) float64 predicted ratings.

    Raises:
        ValueError: There are fewer ratings than folds, or values are not finite.
    """
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(SVR(), {"C": PENALTIES}, scoring="neg_mean_squared_error", cv=folds)
    model = TransformedTargetRegressor(search, transformer=StandardScaler())
    predict: Predict = model.fit(features.astype(np.float64), mos).predict
    return predict
