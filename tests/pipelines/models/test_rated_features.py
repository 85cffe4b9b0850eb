"""Ratings, and the commands that fit and evaluate on them, on a real Ray in this process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grepr_core.bundles.bundle import load_bundle
from grepr_core.errors import UserError
from grepr_core.pretraining.distortions import distort
from grepr_core.regression.metrics import srocc
from grepr_core.regression.regressor import Regressor
from grepr_core.scoring.scorer import Scorer
from pipelines.models import evaluate, fit
from pipelines.models.rated_features import image_uri, rated_features, read_ratings
from pipelines.options import EvaluateOptions, FitOptions
from tests.lake import SMALL_VIEW, jpeg, photo


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in five degrees of noise, rated by how little of it there is, on a scale from 1 to 5."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("rated")
    (folder / "sub").mkdir()
    rows = []
    for i in range(60):
        level = i % 5 + 1
        name = f"sub/{i:03d}.jpg" if i % 2 else f"{i:03d}.jpg"
        noisy = distort(np.asarray(photo(i, (128, 128))), "gaussian_noise", level, seed=i)
        (folder / name).write_bytes(jpeg(Image.fromarray(noisy), quality=95))
        rows.append({"image": name, "mos": 6 - level, "split": "train" if i < 45 else "val"})
    pd.DataFrame(rows).to_csv(folder / "ratings.csv", index=False)
    return folder


def ratings_file(folder: Path, text: str) -> str:
    (folder / "ratings.csv").write_text(text)
    return str(folder / "ratings.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,mos\na,1\nb,2\n", "no column 'image'; its columns are name, mos$"),
        ("image,score\na,1\nb,2\n", "no column 'mos'"),
        ("image;mos\na;1\nb;2\n", "separated by semicolons; save it with commas"),
        ("image\tmos\na\t1\nb\t2\n", "separated by tabs"),
        ("image,mos\n", "holds no ratings"),
        ("image,mos\na,1\nb,x\n", "line 3: mos is 'x', not a finite number$"),
        ('image,mos\na,1\n\nb,"2,5"\n', "line 4: mos is '2,5'"),
        ("image,mos\na,1\nb,inf\nc,\n", r"line 3: mos is 'inf', not a finite number \(2 such rows\)"),
        ("image,mos\na,1\nb,nan\n", "line 3: mos is 'nan'"),
        ("image,mos\na,1\n,2\n", "line 3: image is ''"),
        ("image,mos\na,1\nb\n", "line 3: mos is ''"),
        ("image,mos\na,b.jpg,1\nb,2\n", "line 2: has more cells than .* names"),
        ("image,mos\na,1\nb,2,3\n", "Expected 2 fields in line 3"),
        ("image,mos\na,1\na,2\nb,3\n", "line 2 and 3: rate the same image, a; 1 image is"),
        ("image,mos\na,1\nb,2\n./a,3\n", r"line 2 and 4: rate the same image, a and \./a;"),
        ("image,mos\nx/../a,1\n{folder}/a,2\nfile://{folder}/b,3\nb,3\n", "line 2 and 3: .* 2 images"),
        ("image,mos\na,1\nb,1\n", "all ratings are equal, 1; there"),
        ("image,mos,std\na,1,.1\nb,2,-.1\n", "line 3: std is '-.1', not a number from 0 on$"),
        ("image,mos,std\na,1,.1\nb,2,inf\n", "line 3: std is 'inf'"),
        ("image,mos,std\na,1,.1\nb,2,\n", r"line 3: std is '', .*only one rating \(count 1\) may have none"),
        ("image,mos,std,count\na,1,.1,2\nb,2,,2\n", "line 3: std is ''"),
        ("image,mos,std,count\na,1,.1,2\nb,2,.1,0\n", "line 3: count is '0', not a whole number from 1 on"),
        ("image,mos,std,count\na,1,.1,2.5\nb,2,.1,3\n", "line 2: count is '2.5'"),
        ("image,mos,std\na,1,5\nb,2,5\n", "more noise .* than the whole spread of mos; give std on the scale"),
        ("", "not a readable table; give CSV in UTF-8, or Parquet"),
        ('image,mos\na,1\n"b,2\n', "not a readable table"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused_in_words(text: str, message: str, tmp_path: Path):
    file = ratings_file(tmp_path, text.replace("{folder}", str(tmp_path)))
    with pytest.raises(UserError, match=message) as error:
        read_ratings(file, str(tmp_path))
    assert str(error.value).startswith(file)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xd8\xff\xe0 a JPEG", b"PK\x03\x04 a workbook", b"PAR1 cut off", "image,mos\na,1\n".encode("utf-16")],
)
def test_bytes_that_are_no_table(content: bytes, tmp_path: Path):
    (tmp_path / "ratings.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"ratings\.csv: not a readable table"):
        read_ratings(str(tmp_path / "ratings.csv"))


def test_a_missing_file_of_ratings(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        read_ratings(str(tmp_path / "nowhere.csv"))
    with pytest.raises(UserError, match="directory"):
        read_ratings(str(tmp_path))


def test_csv_and_parquet_say_the_same(tmp_path: Path):
    text = "\ufeffimage, mos,other,std,count\n007,1,x,.5,3\n8,2.5,y,.2,2\n\nNA,4,z,,1\n\n"
    table = read_ratings(ratings_file(tmp_path, text))
    assert table["image"].tolist() == ["007", "8", "NA"]  # names are no numbers
    assert table["mos"].tolist() == [1.0, 2.5, 4]
    assert table["std"].tolist() == [0.5, 0.2, 0]
    assert table["count"].tolist() == [3, 2, 1]
    assert table.index.tolist() == [2, 3, 5]
    table.assign(image_bytes=b"x").to_parquet(tmp_path / "ratings")  # known by its bytes
    again = read_ratings(str(tmp_path / "ratings"))
    pd.testing.assert_frame_equal(again.reset_index(drop=True), table.reset_index(drop=True))
    table.assign(mos=[1, np.nan, 3]).to_parquet(tmp_path / "ratings.parquet")
    with pytest.raises(UserError, match=r"ratings\.parquet, row 2: mos is 'nan'"):
        read_ratings(str(tmp_path / "ratings.parquet"))
    table.drop(columns="mos").to_parquet(tmp_path / "ratings.parquet")
    with pytest.raises(UserError, match=r"no column 'mos'; its columns are .*image"):
        read_ratings(str(tmp_path / "ratings.parquet"))


@pytest.mark.parametrize(
    ("images", "image", "uri"),
    [
        ("/photos", "a.jpg", "/photos/a.jpg"),
        ("/photos/", "./sub//a b.jpg", "/photos/sub/a b.jpg"),
        ("/photos", "/other/../a.jpg", "/a.jpg"),
        ("/photos", "file:///a%20b.jpg", "/a b.jpg"),
        ("/photos", "s3://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/photos/", "./a.jpg", "s3://bucket/photos/a.jpg"),
        ("s3://bucket", "sub/../a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket", "/photos/a.jpg", "/photos/a.jpg"),
    ],
)
def test_an_image_has_one_uri_however_it_is_spelled(images: str, image: str, uri: str):
    assert image_uri(images, image) == uri


@pytest.mark.slow
@pytest.mark.usefixtures("warm_process")
def test_fitting_makes_a_bundle_that_knows_the_ratings(rated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    options = FitOptions(
        ratings=f"{rated}/ratings.csv",
        images=str(rated),
        output=str(tmp_path / "noise-meter"),
        workers=1,
        max_pixels=SMALL_VIEW,
    )
    result = fit.run(options)
    bundle = load_bundle(str(tmp_path / "noise-meter"))
    assert bundle.name == "noise-meter"
    assert bundle.model_id == result.bundle.model_id != load_bundle("grepr-lite").model_id
    assert bundle.scale == (1, 5)
    assert bundle.card["training"]["ratings"] == 45
    assert [point.labels for point in result.learning_curve] == [25, 36]
    assert result.learning_curve[-1].srocc.median > 0.7
    assert result.outlook == []  # two points carry none
    text = fit.to_text(result)
    assert "at    36 ratings: SROCC 0." in text
    assert "likely" not in text
    assert f"fitted on all 45 ratings, model id {bundle.model_id}" in text
    assert fit.to_json(result)["learning_curve"][0]["labels"] == 25
    held_out = read_ratings(options.ratings).query("split == 'val'")
    contents = ((rated / image).read_bytes() for image in held_out["image"])
    scores = [score.score for score in Scorer(bundle, device="cpu").score(contents)]
    assert np.corrcoef(scores, held_out["mos"])[0, 1] > 0.8
    with pytest.raises(UserError, match="holds a model bundle already"):
        fit.run(options)
    # It started from the scores of the built-in model, unless it was not to.
    lite = load_bundle("grepr-lite")
    assert bundle.card["training"]["started_from"] == lite.model_id
    assert text.startswith(f"grepr-lite as it is: SROCC {result.base_as_it_is.srocc.median:.3f} (")
    # On the very photographs that the last point is tested on.
    table = read_ratings(options.ratings, options.images).query("split == 'train'")
    own = rated_features(table, options.images, lite, options)
    sroccs = []
    for draw in range(fit.DRAWS):
        test = np.random.default_rng([0, draw]).permutation(45)[36:]
        sroccs.append(srocc(own.score[test], own.mos[test]))
    assert result.base_as_it_is.srocc_by_draw == pytest.approx(sroccs)
    assert "turn them round" not in caplog.text
    assert "ratings went into it" not in caplog.text
    again = fit.run(replace(options, model=options.output, output=str(tmp_path / "again"), from_scratch=True))
    assert again.bundle.card["training"]["started_from"] is None
    # What a model knows of its own ratings flatters it.
    assert "noise-meter was fitted by 'grepr fit'; where any of these ratings went into it" in caplog.text
    alone, started = again.bundle.regressor, bundle.regressor
    assert started.interval.to_array().tolist() != alone.interval.to_array().tolist()
    expected = lite.regressor.coefficients / lite.regressor.scale

    def likeness(regressor: Regressor) -> float:
        return float(np.corrcoef(regressor.coefficients / regressor.scale, expected)[0, 1])

    assert likeness(started) > likeness(alone) + 0.05
    assert fit.to_json(result)["started_from"] == lite.model_id


@pytest.mark.usefixtures("warm_process")
def test_ratings_the_wrong_way_round_are_told(rated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    where = {"images": str(rated), "workers": 1, "max_pixels": SMALL_VIEW}
    table = read_ratings(f"{rated}/ratings.csv", str(rated))
    options = FitOptions(ratings=str(tmp_path / "reversed.csv"), output=str(tmp_path / "model"), **where)
    scores = rated_features(table, str(rated), load_bundle("grepr-lite"), options).score
    table.assign(mos=-scores).drop(columns="split").to_csv(options.ratings, index=False)
    result = fit.run(options)
    assert result.base_as_it_is.srocc.median == pytest.approx(-1)
    assert "ratings are low where grepr-lite gives high scores; if low ones mean good photos" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("warm_process")
def test_ratings_are_weighed_by_their_noise(rated: Path, tmp_path: Path):
    ratings = pd.read_csv(rated / "ratings.csv").query("split == 'train'")
    # A third of the ratings is all noise, and says so.
    noisy = np.arange(len(ratings)) % 3 == 0
    mos = np.where(noisy, np.random.default_rng(0).uniform(-20, 26, len(ratings)), ratings["mos"])
    ratings = ratings.assign(mos=mos, std=np.where(noisy, 12, 0.1))
    ratings.to_csv(tmp_path / "told.csv", index=False)
    ratings.drop(columns="std").to_csv(tmp_path / "untold.csv", index=False)
    held_out = read_ratings(f"{rated}/ratings.csv").query("split == 'val'")
    contents = [(rated / image).read_bytes() for image in held_out["image"]]
    correlation = {}
    for name in ("told", "untold"):
        options = FitOptions(
            ratings=str(tmp_path / f"{name}.csv"),
            images=str(rated),
            output=str(tmp_path / name),
            workers=1,
            max_pixels=SMALL_VIEW,
        )
        assert fit.run(options).bundle.card["training"]["weighed_by_noise"] == (name == "told")
        scores = [score.score for score in Scorer(load_bundle(options.output), device="cpu").score(contents)]
        correlation[name] = srocc(np.array(scores), held_out["mos"].to_numpy())
    assert correlation["told"] > correlation["untold"] + 0.1


@pytest.mark.usefixtures("warm_process")
def test_too_few_ratings_to_fit_or_to_cross_validate(rated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    ratings = pd.read_csv(rated / "ratings.csv")
    few = ratings.assign(split=["train"] * 19 + ["val"] * 41)
    few.to_csv(tmp_path / "few.csv", index=False)
    options = FitOptions(ratings=str(tmp_path / "few.csv"), images=str(rated), output=str(tmp_path / "few"), workers=1)
    with pytest.raises(UserError, match=r"few\.csv: 19 ratings whose split is 'train' to fit on; rate at least 20"):
        fit.run(options)
    # Almost all are equal, so that some fifth holds one rating alone.
    alike = ratings.assign(mos=[1] * 59 + [2]).drop(columns="split")
    alike.to_csv(tmp_path / "alike.csv", index=False)
    options = FitOptions(
        ratings=str(tmp_path / "alike.csv"),
        images=str(rated),
        output=str(tmp_path / "alike"),
        workers=1,
        max_pixels=SMALL_VIEW,
    )
    result = fit.run(options)
    assert result.learning_curve == result.outlook == []
    assert "too many of them are equal" in caplog.text
    assert fit.to_text(result).startswith("wrote")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_process")
def test_evaluating_draws_from_train_and_tests_on_the_rest(rated: Path):
    options = EvaluateOptions(
        ratings=f"{rated}/ratings.csv",
        images=str(rated),
        labels="20,45",
        splits=4,
        zero_shot=False,
        workers=1,
        max_pixels=SMALL_VIEW,
    )
    evaluation = evaluate.run(options)
    assert evaluation.test_images == 15
    assert [(r.labels, r.splits) for r in evaluation.few_labels] == [(20, 4), (45, 1)]
    assert evaluation.few_labels[-1].srocc.median > 0.8
    assert evaluation.intervals is not None
    assert evaluation.intervals.promised == 0.9
    assert evaluate.run(options) == evaluation  # seeded
    table = evaluate.to_text(evaluation)
    assert "| 45 | 1 |" in table
    assert "15 test images" in table
    assert evaluate.to_json(evaluation)["few_labels"][0]["labels"] == 20


@pytest.mark.usefixtures("warm_process")
@pytest.mark.parametrize(("labels", "message"), [("20,99", "45"), ("many", "--labels")])
def test_more_labels_than_there_are(rated: Path, labels: str, message: str):
    with pytest.raises(UserError, match=message):
        evaluate.run(EvaluateOptions(ratings=f"{rated}/ratings.csv", images=str(rated), labels=labels))


@pytest.mark.usefixtures("warm_process")
def test_rated_images_that_are_not_there_are_named(rated: Path, tmp_path: Path):
    rows = "\n".join(f"{i:03d}.jpg,{i}" for i in range(0, 60, 2))
    ratings = read_ratings(ratings_file(tmp_path, f"image,mos\n{rows}\nnowhere.jpg,3\n"))
    bundle = load_bundle("grepr-lite")
    base = FitOptions(
        ratings="", images=str(rated), output="", max_failed_fraction=0.01, workers=1, max_pixels=SMALL_VIEW
    )
    message = r"1 of 31 rated images could not be scored: .*ratings\.csv, line 32: .*nowhere\.jpg: missing.*--images"
    with pytest.raises(UserError, match=message):
        rated_features(ratings, str(rated), bundle, base)
    lenient = FitOptions(
        ratings="", images=str(rated), output="", max_failed_fraction=0.1, workers=1, max_pixels=SMALL_VIEW
    )
    features = rated_features(ratings, str(rated), bundle, lenient)
    assert len(features.mos) == len(features.features) == 30
    assert 3 not in features.mos
