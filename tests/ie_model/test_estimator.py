"""The scikit-learn classifier: the pipeline's numbers, every kind of rows, and what it refuses."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from ie_model.artifact import load_artifact
from ie_model.config import ModelConfig, ObjectiveConfig
from ie_model.estimator import EquiVAEClassifier
from ie_model.fit import Fit
from pipeline.config.params import parse_params
from pipeline.training.build_job import make_job
from pipeline.training.local_session import TrialSession
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import load_training_data
from tests.helpers.pages import blocks
from tests.helpers.project import small_params

SMALL = ModelConfig(r_dim=4, v_dim=3, channels=(4, 6), hidden=16, decoder_hidden=(16,))


def small(**changes: Any) -> EquiVAEClassifier:
    parameters: dict[str, Any] = {"model": SMALL, "epochs": 1, "min_steps": 30}
    return EquiVAEClassifier(**parameters | changes)


def flowers() -> tuple[Any, Any]:
    """150 rows of 4 features, two labels of three hidden."""
    x, y = load_iris(return_X_y=True)
    return x, np.where(np.arange(len(y)) % 3 == 0, y, -1)


def images(num: int = 60, side: int = 8) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.random((num, side, side)), np.arange(num) % 3


@pytest.fixture(scope="module")
def fitted() -> EquiVAEClassifier:
    return small(min_steps=300, learning_rate=0.01).fit(*flowers())


class TestNumbers:
    @pytest.mark.parametrize("label_count", [60, "all"])
    def test_the_weights_are_those_of_the_pipeline_for_the_same_data_and_settings(
        self, digits_project: Path, tmp_path: Path, label_count: int | str
    ) -> None:
        raw = small_params()
        raw["train"] |= {"epochs": 2, "batch_size": 128, "precision": "float32"}
        raw["labels"]["count"] = label_count
        job = make_job(parse_params(raw), digits_project, method="extended", world_size=1)
        trainer = Trainer(job, TrialSession(tmp_path / "run", job))
        trainer.run()
        data = load_training_data(Path(job.shards), job.reading, job.label_count, job.label_seed, torch.device("cpu"))
        x = data.points.take(np.arange(data.num_points)).numpy()[:, 0]
        y = np.full(len(x), -1)
        y[data.labelled] = data.y
        estimator = EquiVAEClassifier(
            model=job.model,
            objective=job.objective,
            epochs=job.epochs,
            min_steps=raw["train"]["min_steps"],
            batch_size=job.batch_size,
            learning_rate=job.learning_rate,
            warmup=job.warmup,
            random_state=job.seed,
        ).fit(x, y)
        assert estimator.n_steps_ == trainer.state.step
        expected, found = trainer.artifact().tensors(), estimator.artifact_.tensors()
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            if name == "class_representations":  # summed in batches of another size
                torch.testing.assert_close(found[name], value)
            else:
                assert torch.equal(found[name], value), name

    def test_the_same_seed_gives_the_same_model_and_leaves_torchs_own_numbers_alone(self) -> None:
        state = torch.random.get_rng_state()
        first, second, other = (small(random_state=seed).fit(*flowers()) for seed in (3, 3, 4))
        assert torch.equal(torch.random.get_rng_state(), state)
        x = flowers()[0]
        assert np.array_equal(first.transform(x), second.transform(x))
        assert not np.array_equal(first.transform(x), other.transform(x))

    def test_rows_are_classified_alike_alone_and_beside_others(self, fitted: EquiVAEClassifier) -> None:
        x = flowers()[0]
        one_by_one = np.concatenate([fitted.predict_proba(x[i : i + 1]) for i in range(20)])
        np.testing.assert_allclose(one_by_one, fitted.predict_proba(x)[:20], rtol=1e-10)

    def test_it_learns_from_a_third_of_the_labels(self, fitted: EquiVAEClassifier) -> None:
        x, y = load_iris(return_X_y=True)
        assert fitted.score(x, y) > 0.9

    def test_the_history_has_the_mean_of_each_epoch(self) -> None:
        estimator = small(epochs=3, min_steps=30).fit(*flowers())
        assert [len(estimator.history_), estimator.n_steps_] == [3, 30]
        assert all({"loss", "bound_labelled"} & row.keys() for row in estimator.history_)


class TestConventions:
    @pytest.mark.slow
    def test_scikit_learns_own_checks_pass(self) -> None:
        """With each row labelled: one check uses -1 as the name of a class."""
        estimator = EquiVAEClassifier(epochs=1, min_steps=150, learning_rate=0.01, unlabelled=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = check_estimator(estimator, on_skip=None, on_fail=None)
        # The array API is scikit-learn's experiment, off unless an environment variable says otherwise.
        others = [(r["check_name"], r["exception"]) for r in results if r["status"] != "passed"]
        assert [name for name, _ in others] == ["check_array_api_input"], others

    def test_it_works_in_a_pipeline_and_in_a_grid_search(self) -> None:
        x, y = load_iris(return_X_y=True)
        line = make_pipeline(StandardScaler(), small())
        grid = {"equivaeclassifier__objective": [ObjectiveConfig(alpha=alpha) for alpha in (0.05, 0.2)]}
        search = GridSearchCV(line, grid, cv=2).fit(x, y)
        assert search.predict(x).shape == y.shape

    def test_a_data_frame_gives_its_features_names_and_r_and_v_have_theirs(self) -> None:
        pandas = pytest.importorskip("pandas")
        x, y = flowers()
        frame = pandas.DataFrame(x, columns=["a", "b", "c", "d"])
        estimator = small().fit(frame, y).set_output(transform="pandas")
        assert estimator.artifact_.preprocessing.features == ("a", "b", "c", "d")
        assert list(estimator.transform(frame)) == ["r0", "r1", "r2", "r3", "v0", "v1", "v2"]
        with pytest.raises(ValueError, match="feature names"):
            estimator.predict(frame[["b", "a", "c", "d"]])

    def test_tensors_are_rows_too(self, fitted: EquiVAEClassifier) -> None:
        x = flowers()[0]
        assert np.array_equal(fitted.predict(torch.from_numpy(x)), fitted.predict(x))

    def test_it_survives_pickling(self, fitted: EquiVAEClassifier) -> None:
        x = flowers()[0]
        assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(x), fitted.transform(x))

    def test_before_fit_it_says_so(self, tmp_path: Path) -> None:
        estimator = EquiVAEClassifier()
        for call in (estimator.predict, estimator.transform, estimator.swap):
            with pytest.raises(NotFittedError):
                call(flowers()[0])
        with pytest.raises(NotFittedError):
            estimator.sample()
        with pytest.raises(NotFittedError):
            estimator.save(tmp_path / "model")


class TestLabels:
    @pytest.mark.parametrize(
        "hidden",
        [
            lambda y: np.where(y < 0, np.nan, y.astype(float)),
            lambda y: np.array([None if c < 0 else c for c in y], dtype=object),
            lambda y: np.array([np.nan if c < 0 else c for c in y], dtype=object),
            lambda y: np.array([-1 if c < 0 else c for c in y], dtype=object),
        ],
        ids=["NaN", "None", "NaN among objects", "-1 among objects"],
    )
    def test_whatever_stands_for_no_label_gives_the_same_model(self, hidden: Any) -> None:
        x, y = flowers()
        expected = small().fit(x, y).transform(x)
        assert np.array_equal(small().fit(x, hidden(y)).transform(x), expected)

    def test_names_as_classes_and_another_word_for_none(self) -> None:
        x, y = flowers()
        names = np.array(["", "ab", "cd", "ef"])[y + 1]
        estimator = small(unlabelled="").fit(x, names)
        assert estimator.classes_.tolist() == ["ab", "cd", "ef"]
        assert set(estimator.predict(x)) <= {"ab", "cd", "ef"}

    def test_minus_one_is_a_class_where_every_row_has_a_label(self) -> None:
        x, y = load_iris(return_X_y=True)
        assert small(unlabelled=None).fit(x, y - 1).classes_.tolist() == [-1, 0, 1]

    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (np.full(150, -1), "y has no label at all"),
            (np.zeros(150, dtype=int), "at least two classes are needed; y has 1 class"),
            (np.r_[np.zeros(149, dtype=int), 1], "class 1 has a single labelled row; at least 2 are needed"),
            (np.linspace(0, 1, 150), "Unknown label type: continuous"),
            (np.zeros(149, dtype=int), "inconsistent numbers of samples"),
            (None, "requires y to be passed"),
        ],
    )
    def test_labels_that_cannot_be_are_one_clear_line(self, y: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            small().fit(flowers()[0], y)


class TestKinds:
    @pytest.mark.parametrize(
        ("rows", "shape"),
        [
            (lambda x: x, (1, 8, 8)),
            (lambda x: (255 * x).astype(np.uint8), (1, 8, 8)),
            (lambda x: x[:, None], (1, 8, 8)),
            (lambda x: np.stack([x, x, x], axis=1), (3, 8, 8)),
            (lambda x: np.stack([x, x, x], axis=3), (3, 8, 8)),
            (lambda x: np.stack([x, x, x], axis=3).astype(np.float32), (3, 8, 8)),
        ],
        ids=["grey", "bytes", "one channel", "channels first", "channels last", "single precision"],
    )
    def test_images_come_back_in_the_form_and_the_units_that_they_came_in(self, rows: Any, shape: Any) -> None:
        x, y = images()
        estimator = small().fit(rows(x), y)
        assert estimator.artifact_.model.spec.shape == shape
        swapped, (drawn, names) = estimator.swap(rows(x)[:5]), estimator.sample(2)
        assert swapped.shape == (5, 3, *rows(x).shape[1:])
        assert drawn.shape == (6, *rows(x).shape[1:])
        assert names.tolist() == [0, 0, 1, 1, 2, 2]
        if rows(x).dtype == np.uint8:
            assert swapped.dtype == np.uint8
            assert swapped.max() > 1
        else:
            assert 0 <= swapped.min() <= swapped.max() <= 1

    def test_channels_last_are_the_same_images_as_channels_first(self) -> None:
        x, y = images()
        first, last = (np.stack([x, x**2, 1 - x], axis=axis) for axis in (1, 3))
        estimators = small().fit(first, y), small().fit(last, y)
        assert np.array_equal(estimators[0].transform(first), estimators[1].transform(last))
        swapped = [estimator.swap(rows[:4]) for estimator, rows in zip(estimators, (first, last), strict=True)]
        assert np.array_equal(np.moveaxis(swapped[0], 2, 4), swapped[1])

    def test_vectors_come_back_in_their_own_units(self, fitted: EquiVAEClassifier) -> None:
        x, y = load_iris(return_X_y=True)
        swapped = fitted.swap(x)
        own = swapped[np.arange(len(x)), y]
        assert np.abs(own - x).mean() < np.abs(x - x.mean(0)).mean()

    def test_series_may_end_early_and_hold_gaps(self) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.normal(5, 3, (40, 2, 12)), np.arange(40) % 2
        x[::3, :, 9:] = np.nan
        estimator = small(kind="series").fit(x, y)
        assert np.isfinite(estimator.predict_proba(x)).all()
        assert estimator.swap(x[:3]).shape == (3, 2, 2, 12)

    def test_counts_may_be_sparse(self) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.poisson(1.0, (40, 30)), np.arange(40) % 2
        dense, sparse = small(kind="counts").fit(x, y), small(kind="counts").fit(csr_array(x), y)
        assert np.array_equal(dense.predict_proba(x), sparse.predict_proba(csr_array(x)))

    @pytest.mark.parametrize(
        ("changes", "x", "message"),
        [
            (
                {},
                np.arange(60 * 64).reshape(60, 8, 8) % 17,
                "images are uint8, .* int64 from 0 to 16: divide",
            ),
            ({}, np.full((60, 8, 8), 16.0), "images are uint8, or floats from 0 to 1; these are float64 from 16 to 16"),
            ({}, np.zeros((60, 8, 8, 2)), "1 or 3 channels are expected on the first or the last axis"),
            ({}, np.zeros((60, 3, 8, 3)), "the first or the last axis may be that of the channels"),
            ({}, np.zeros((60, 2, 2, 2, 2)), r"X has 5 dimensions; allowed: \[N, D\]"),
            ({"kind": "vector"}, np.zeros((60, 8, 8)), "X of kind vector has 2 dimensions, got 3"),
            ({"kind": "series"}, np.full((60, 2, 8), np.nan), "channel 0 of X has no value at all"),
            ({"kind": "counts"}, np.full((60, 8), 0.5), "counts are whole numbers from 0 on"),
            ({"kind": "counts"}, np.full((60, 8), -1), "counts are whole numbers from 0 on|Negative values"),
            ({}, np.full((60, 4), np.nan), "contains NaN"),
            ({}, np.full((60, 4), np.inf), "contains infinity"),
            ({}, np.full((60, 4), "a"), "could not convert|dtype"),
            ({}, np.full((60, 4), 1e308) * np.linspace(0, 1, 60)[:, None], "too large or too close"),
        ],
    )
    def test_rows_that_cannot_be_are_one_clear_line(self, changes: Any, x: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            small(**changes).fit(x, np.arange(60) % 3)

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (np.zeros((2, 5)), "X has 5 features, but EquiVAEClassifier is expecting 4"),
            (np.full((2, 4), np.nan), "contains NaN"),
            (np.full((2, 4), 1e300), "too far from those of the fit"),
        ],
    )
    def test_rows_unlike_those_of_the_fit_are_refused(self, fitted: EquiVAEClassifier, x: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            fitted.predict(x)

    def test_images_of_another_size_or_range_are_refused(self) -> None:
        x, y = images()
        estimator = small().fit(x, y)
        with pytest.raises(ValueError, match=r"rows of shape \[8, 9\], the model's are \[8, 8\]"):
            estimator.predict(np.zeros((2, 8, 9)))
        with pytest.raises(ValueError, match="fitted to images of floats from 0 to 1, and X has uint8"):
            estimator.predict(np.zeros((2, 8, 8), dtype=np.uint8))


class TestParameters:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"kind": "picture"}, "kind is 'picture'; allowed: auto, vector, image, series, counts"),
            ({"epochs": 0}, "epochs is 0; allowed: a whole number from 1 on"),
            ({"min_steps": 1.5}, "min_steps is 1.5; allowed"),
            ({"batch_size": "large"}, "batch_size is 'large'; allowed"),
            ({"learning_rate": 0.0}, "learning_rate is 0.0; allowed: above 0"),
            ({"warmup": 0.9}, "warmup is 0.9; allowed: 0 to 0.5"),
            ({"model": {"r_dim": 3}}, "model is .*; allowed: a ModelConfig or None"),
            (
                {"model": ModelConfig(class_code="none", classifier="none")},
                "plain VAE without classes; allowed: embedding",
            ),
        ],
    )
    def test_a_wrong_one_is_named_with_what_is_allowed(self, changes: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            small(**changes).fit(*flowers())

    def test_a_learning_rate_that_ruins_the_weights_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"not finite in epoch 1: lower learning_rate \(1e\+20\)"):
            small(learning_rate=1e20, warmup=0.0).fit(*flowers())


class TestUse:
    def test_an_objective_without_a_decoder_has_nothing_to_swap_or_sample(self) -> None:
        estimator = small(objective=ObjectiveConfig(loss="cross_entropy")).fit(*flowers())
        for call in (estimator.sample, lambda: estimator.swap(flowers()[0])):
            with pytest.raises(ValueError, match="loss is 'cross_entropy', which trains no decoder; allowed: bound"):
                call()

    def test_ctrl_c_leaves_a_usable_model_and_says_after_how_many_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        step, x = Fit.step, flowers()[0]

        def interrupted(fit: Fit, done: int, *arguments: Any) -> Any:
            if done == 7:
                raise KeyboardInterrupt
            return step(fit, done, *arguments)

        monkeypatch.setattr(Fit, "step", interrupted)
        with pytest.warns(ConvergenceWarning, match="interrupted after 7 of 30 steps"):
            estimator = small().fit(*flowers())
        assert estimator.n_steps_ == 7
        assert estimator.predict(x).shape == (150,)

    def test_ctrl_c_before_the_first_step_leaves_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*arguments: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(Fit, "step", interrupted)
        estimator = small()
        with pytest.raises(KeyboardInterrupt):
            estimator.fit(*flowers())
        with pytest.raises(NotFittedError):
            estimator.predict(flowers()[0])

    def test_new_classes_are_known_from_a_few_rows_and_the_old_model_stays(self) -> None:
        x, y = load_iris(return_X_y=True)
        old = small(min_steps=300, learning_rate=0.01).fit(x[y < 2], y[y < 2])
        new = old.add_classes(x[100:105], y[100:105])
        assert [old.classes_.tolist(), new.classes_.tolist()] == [[0, 1], [0, 1, 2]]
        assert old.predict_proba(x).shape == (150, 2)
        assert new.predict_proba(x).shape == (150, 3)
        assert new.swap(x[:2]).shape == (2, 3, 4)
        assert np.mean(new.predict(x[105:]) == 2) > 0.5
        with pytest.raises(ValueError, match=r"classes \[1\] are known already"):
            old.add_classes(x[:2], [1, 1])

    def test_a_saved_model_gives_the_same_answers(self, fitted: EquiVAEClassifier, tmp_path: Path) -> None:
        fitted.save(tmp_path / "model")
        loaded = load_artifact(tmp_path / "model")
        for name, value in fitted.artifact_.tensors().items():
            assert torch.equal(loaded.tensors()[name], value), name
        assert loaded.preprocessing == fitted.artifact_.preprocessing
        with pytest.raises(FileExistsError):
            fitted.save(tmp_path / "model")

    def test_progress_is_drawn_where_it_is_asked_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        small().fit(*flowers())
        assert capsys.readouterr().err == ""
        small(verbose=1).fit(*flowers())
        assert "30/30" in capsys.readouterr().err


@pytest.mark.slow
def test_the_pages_examples_run_as_written(tmp_path: Path) -> None:
    code = "\n".join(blocks("docs/estimator.md", "python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    error, bound = re.fullmatch(r"error (\S+) %\nbound (\S+) nats\n", done.stdout).groups()  # type: ignore[union-attr]
    assert float(error) < 5 and float(bound) > -40
    assert load_artifact(tmp_path / "digits-model").model.spec.num_classes == 10
