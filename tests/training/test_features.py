import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnxruntime import InferenceSession
from skl2onnx import to_onnx
from skl2onnx.common.data_types import DoubleTensorType
from sklearn.base import TransformerMixin, clone

from contract import DATASETS
from contract.dataset import Dataset, Target
from contract.row import Row, feature
from contract.table import FloatMatrix
from local_service import PROJECT
from tests.training.conftest import tiny_splits
from training import params
from training.candidates import row_features
from training.errors import PipelineError
from training.features import RowFeatures, SinglePrecision
from training.onnx import features as feature_conversion
from training.params import RotationParams, RowFeatureParams

HOUSING = DATASETS["housing"]
SHIPPED = params.load(PROJECT / "params.yaml").training("housing").features


def session(transformer: TransformerMixin, columns: int) -> InferenceSession:
    feature_conversion.register()
    model = to_onnx(
        transformer,
        initial_types=[("input", DoubleTensorType([None, columns]))],
        target_opset={"": 21, "ai.onnx.ml": 3},
    )
    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def housing_rows() -> st.SearchStrategy[FloatMatrix]:
    """Rows anywhere within the contract's ranges, ends included."""
    columns = [st.floats(feature.minimum, feature.maximum, width=64) for feature in HOUSING.features]
    return st.lists(st.tuples(*columns), min_size=1, max_size=5).map(lambda rows: np.array(rows, dtype=np.float64))


def test_values() -> None:
    features = RowFeatures(rotations=[(0, 1, 90), (0, 1, 45)], ratios=[(1, 0)]).fit([[1.0, 2.0]])
    # Axes turned by 90°: the new x is the old y, the new y is the old x backwards.
    expected = [3, 4, 4, -3, 7 / np.sqrt(2), 1 / np.sqrt(2), 4 / 3]
    np.testing.assert_allclose(features.transform([[3.0, 4.0]]), [expected])


def test_values_are_rounded_and_computed_from_rounded_values() -> None:
    features = RowFeatures(rotations=[(0, 1, 90)], ratios=[(1, 0), (0, 1)], decimals=[0, 2])
    features.set_params(derived_decimals=[1, None, 3, None]).fit([[1.0, 2.0]])
    expected = [[3.0, 4.13, 4.1, -3, 1.377, 3 / 4.13]]
    np.testing.assert_allclose(features.transform([[2.7, 4.1251]]), expected)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (RowFeatures(decimals=[1]), "decimals has 1 entries for 2 columns"),
        (RowFeatures(ratios=[(1, 0)], derived_decimals=[1, 2]), "derived_decimals has 2 entries for 1 columns"),
    ],
)
def test_decimals_of_another_number_of_columns_are_refused(features: RowFeatures, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        features.fit([[1.0, 2.0]])


@pytest.mark.parametrize("share", [-1e-6, 1e-6])
def test_census_values_stay_the_same_beside_noise(share: float) -> None:
    """As float32 or one part in a million off, a row of the census has the features it had."""
    rows = tiny_splits("housing").all.features
    features = row_features(HOUSING, SHIPPED).fit(rows)
    discrete = [
        HOUSING.feature_names.index(name) for name in ("MedInc", "HouseAge", "Population", "Latitude", "Longitude")
    ]
    noisy = rows.copy()
    noisy[:, discrete] *= 1 + share
    np.testing.assert_array_equal(features.transform(noisy), features.transform(rows))
    single = rows.copy()
    single[:, discrete] = rows[:, discrete].astype(np.float32)
    np.testing.assert_array_equal(features.transform(single), features.transform(rows))


def test_households_are_whole() -> None:
    table = tiny_splits("housing").all.features
    features = row_features(HOUSING, SHIPPED).fit(table)
    names = features.get_feature_names_out(HOUSING.feature_names).tolist()
    households = features.transform(table)[:, names.index("Population / AveOccup")]
    np.testing.assert_array_equal(households, households.round())
    exact = table[:, HOUSING.feature_names.index("Population")] / table[:, HOUSING.feature_names.index("AveOccup")]
    np.testing.assert_allclose(households, exact, atol=0.5)


def test_names() -> None:
    features = RowFeatures(rotations=[(0, 1, 30)], ratios=[(1, 0)]).fit([[1.0, 2.0]])
    assert features.get_feature_names_out(["a", "b"]).tolist() == [
        *("a", "b", "x of a, b turned 30°", "y of a, b turned 30°", "b / a")
    ]
    assert features.get_feature_names_out().tolist()[-1] == "x1 / x0"
    assert SinglePrecision().fit([[1.0]]).get_feature_names_out().tolist() == ["x0"]


def test_shipped_features_have_as_many_names_as_columns() -> None:
    rows = np.array([list(HOUSING.example.values())])
    features = row_features(HOUSING, SHIPPED).fit(rows)
    assert features.transform(rows).shape == (1, len(features.get_feature_names_out(HOUSING.feature_names))) == (1, 20)


def test_clone_keeps_the_parameters() -> None:
    features = row_features(HOUSING, SHIPPED)
    assert clone(features).get_params() == features.get_params()


def test_another_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="3 columns, fitted on 2"):
        RowFeatures().fit([[1.0, 2.0]]).transform([[1.0, 2.0, 3.0]])


ONNX_SESSION = session(row_features(HOUSING, SHIPPED).fit([[1.0] * 8]), 8)


@given(housing_rows())
@settings(deadline=None, max_examples=300)
def test_onnx_gives_the_same_bits(rows: FloatMatrix) -> None:
    expected = row_features(HOUSING, SHIPPED).fit(rows).transform(rows)
    np.testing.assert_array_equal(ONNX_SESSION.run(None, {"input": rows})[0], expected)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize(
    "features",
    [
        RowFeatures(),
        RowFeatures(ratios=[(0, 1)]),
        RowFeatures(rotations=[(1, 0, 10)]),
        RowFeatures(decimals=[0, None]),
        RowFeatures(ratios=[(0, 1)], decimals=[1, 2], derived_decimals=[0]),
        RowFeatures(rotations=[(1, 0, 10)], ratios=[(0, 1)], derived_decimals=[3, None, 1]),
    ],
)
def test_parts_may_be_missing(features: RowFeatures) -> None:
    rows = np.array([[3.0, 4.0], [5.0, 0.1]])
    features.fit(rows)
    np.testing.assert_array_equal(session(features, 2).run(None, {"input": rows})[0], features.transform(rows))


SINGLE_SESSION = session(SinglePrecision().fit([[1.0, 1.0]]), 2)


@given(arrays(np.float64, (3, 2), elements=st.floats(-1e30, 1e30)))
@settings(deadline=None)
def test_single_precision_rounds_as_onnx_does(rows: FloatMatrix) -> None:
    rounded = SinglePrecision().fit(rows).transform(rows)
    np.testing.assert_array_equal(rounded, rows.astype(np.float32))
    np.testing.assert_array_equal(SINGLE_SESSION.run(None, {"input": rows})[0], rounded)


def test_rounding_of_an_unknown_column_is_refused() -> None:
    wanted = RowFeatureParams(decimals={"Rooms": 1, "AveRooms / AveOccup": 1}, ratios=(("MedInc", "AveOccup"),))
    with pytest.raises(PipelineError, match=r"features\.decimals: AveRooms / AveOccup, Rooms is.*MedInc / AveOccup"):
        row_features(HOUSING, wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        RowFeatureParams(ratios=(("MedInc", "Rooms"),)),
        RowFeatureParams(rotations=RotationParams(columns=("Rooms", "Latitude"), degrees=(15,))),
    ],
)
def test_unknown_column_is_named(wanted: RowFeatureParams) -> None:
    with pytest.raises(PipelineError, match=r"train\.housing\.features: Rooms is no feature.*MedInc"):
        row_features(HOUSING, wanted)


class SlopeRow(Row):
    rise: float = feature(unit="m", minimum=-1, maximum=1, description="Rise.", example=1)
    run: float = feature(unit="m", minimum=-1, maximum=1, description="Run.", example=1)


def test_denominator_that_may_be_zero_is_refused() -> None:
    slopes = Dataset("slopes", "Slopes.", SlopeRow, Target("grip", "N", "Grip."))
    with pytest.raises(PipelineError, match="run may be zero"):
        row_features(slopes, RowFeatureParams(ratios=(("rise", "run"),)))


def test_denominator_that_is_rounded_to_zero_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"AveOccup may be zero .*rounded to 0 decimals"):
        row_features(HOUSING, RowFeatureParams(ratios=(("MedInc", "AveOccup"),), decimals={"AveOccup": 0}))
