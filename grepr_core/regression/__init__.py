"""Regression: quality from features and few ratings.

In come features and mean opinion scores. Out go a fitted ``regressor.Regressor`` with its prediction intervals, how
good it is by which measure at how many ratings (``metrics``, ``learning_curve``), which photos to rate next
(``active_learning``), and the regressors of the method's authors to compare with (``published``).
"""

__all__ = ["active_learning", "learning_curve", "metrics", "published", "rating_noise", "regressor"]
