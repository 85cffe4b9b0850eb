"""Measuring a bundle: which regressors, which metrics, which draws. Features are made up, so that nothing is scored."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from grepr_core.errors import UserError
from grepr_core.regression.metrics import plcc_logistic
from pipelines.models import evaluate
from pipelines.models.rated_features import RatedFeatures
from pipelines.options import EvaluateOptions

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(100, 8)).astype(np.float32)
MOS = FEATURES[:, 0] + 0.3 * RNG.normal(size=100)
SCORE = np.tanh(2 * MOS)
NONE = dict.fromkeys(("score_low", "score_high", "score_lower", "score_upper", "start"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch):
    """Measures on the features above, of which the first 60 may be learnt from; ratings differ in noise."""
    variance = np.linspace(0.01, 10, 100)
    rated = RatedFeatures(FEATURES, MOS, (8,), (1.0,), variance, np.arange(100) < 60, SCORE, **NONE)
    table = pd.DataFrame({"mos": MOS, "split": ["train"] * 60 + ["val"] * 40})
    monkeypatch.setattr(evaluate, "load_bundle", lambda _: SimpleNamespace(regressor=None))
    monkeypatch.setattr(evaluate, "read_ratings", lambda *_, **__: table)
    monkeypatch.setattr(evaluate, "rated_features", lambda *_: rated)

    def run(**options: object) -> evaluate.Evaluation:
        return evaluate.run(EvaluateOptions(ratings="r.csv", images="i", labels="20,40", splits=3, **options))

    return run


def test_plcc_is_told_before_and_after_a_logistic_fit(measured):
    evaluation = measured()
    (own,) = evaluation.as_it_is
    assert own.plcc_logistic == plcc_logistic(SCORE[60:], MOS[60:]) > own.plcc
    lines = evaluate.to_text(evaluation).splitlines()
    assert lines[0] == "| labels | draws | SROCC | PLCC | PLCC after a logistic fit | KROCC |"
    assert f"| the bundle's regressor | - | {own.srocc:.3f} | {own.plcc:.3f} | {own.plcc_logistic:.3f} |" in lines[-3]
    assert {line.count("|") for line in lines[:5]} == {7}


def test_the_seed_is_told_and_decides_the_draws(measured):
    first, other = measured(), measured(seed=5)
    assert "(--seed 5)" in evaluate.to_text(other)
    assert first == measured()
    assert first.few_labels[0].srocc_by_draw != other.few_labels[0].srocc_by_draw


def test_the_protocol_of_the_paper_fits_ridge_and_svr_without_weights(measured):
    pytest.importorskip("sklearn", reason="needs scikit-learn, grepr[paper]")
    from grepr_core.regression.published import fit_published_ridge

    evaluation = measured(protocol="paper")
    assert [(r.regressor, r.labels, r.splits) for r in evaluation.few_labels] == [
        ("ridge", 20, 3),
        ("ridge", 40, 3),
        ("SVR", 20, 3),
        ("SVR", 40, 3),
    ]
    drawn = np.random.default_rng([0, 0]).permutation(60)[:20]
    predicted = fit_published_ridge(FEATURES[drawn], MOS[drawn])(FEATURES[60:])
    ranks = np.corrcoef(predicted.argsort().argsort(), MOS[60:].argsort().argsort())[0, 1]
    assert evaluation.few_labels[0].srocc_by_draw[0] == pytest.approx(ranks)
    assert "| 40, SVR | 3 |" in evaluate.to_text(evaluation)
    assert evaluate.to_json(evaluation)["few_labels"][2]["regressor"] == "SVR"
    assert [r.regressor for r in measured().few_labels] == ["grepr"] * 2


def test_without_scikit_learn_the_protocol_says_what_to_install(measured, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "grepr_core.regression.published", None)
    with pytest.raises(UserError, match=r"--protocol paper needs scikit-learn: pip install 'grepr\[paper\]'"):
        measured(protocol="paper")
    measured()
