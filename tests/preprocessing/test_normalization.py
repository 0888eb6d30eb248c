import numpy as np
import pytest

from nnunetv2.preprocessing.normalization import (
    SCHEMES,
    ImageNormalization,
    channel_name_to_normalization_mapping,
    check_schemes,
    get_normalization_scheme,
    may_use_mask,
    normalize,
    scheme_by_name,
    scheme_of_channel,
)
from nnunetv2.utilities.errors import InputError

CT = {"mean": 50.0, "std": 10.0, "percentile_00_5": 20.0, "percentile_99_5": 80.0}


def normalized(values, scheme, use_mask=False, seg=None, intensities=CT):
    image = np.array(values, np.float32).reshape(1, 1, -1)
    seg = np.zeros(image.shape, np.int8) if seg is None else np.array(seg, np.int8).reshape(1, 1, -1)
    normalize(image, scheme, use_mask, seg, intensities)
    return image.ravel()


def test_ct_clips_then_standardises():
    assert normalized([-1000, 50, 70, 3000], "CTNormalization").tolist() == [-3, 0, 2, 3]


def test_z_score_uses_the_image_itself():
    assert normalized([1, 3], "ZScoreNormalization").tolist() == [-1, 1]


def test_z_score_in_the_mask_leaves_the_outside_alone():
    assert normalized([0, 1, 3], "ZScoreNormalization", True, [-1, 0, 1]).tolist() == [0, -1, 1]


def test_z_score_of_an_empty_mask_changes_nothing():
    assert normalized([0, 0], "ZScoreNormalization", True, [-1, -1]).tolist() == [0, 0]


def test_constant_image_becomes_zero():
    assert normalized([7, 7], "ZScoreNormalization").tolist() == [0, 0]


def test_rescale_to_01():
    assert normalized([-2, 0, 2], "RescaleTo01Normalization").tolist() == [0, 0.5, 1]


def test_rgb_divides_by_255():
    assert normalized([0, 255], "RGBTo01Normalization").tolist() == [0, 1]


def test_rgb_refuses_hounsfield_units():
    with pytest.raises(ValueError, match="-1024"):
        normalized([-1024, 3], "RGBTo01Normalization")


def test_no_normalization():
    assert normalized([-5, 9], "NoNormalization").tolist() == [-5, 9]


def test_unknown_scheme_is_named():
    with pytest.raises(ValueError, match="MagicNormalization"):
        normalized([0], "MagicNormalization")


@pytest.mark.parametrize(("channel", "scheme"), [("CT", "CTNormalization"), ("noNorm", "NoNormalization"), ("T1", "ZScoreNormalization"),
                                                 ("rgb_to_0_1", "RGBTo01Normalization")])
def test_scheme_of_channel(channel, scheme):
    assert scheme_of_channel(channel) == scheme
    assert get_normalization_scheme(channel).__name__ == scheme


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_are_classes_as_nnunets(name):
    scheme = SCHEMES[name](use_mask_for_norm=False, intensityproperties=CT)
    image = np.array([[[0, 60, 255]]], np.int16)
    result = scheme.run(image, np.zeros(image.shape, np.int8))
    assert isinstance(scheme, ImageNormalization) and result.dtype == np.float32 and result is not image


class Doubled(ImageNormalization):
    def run(self, image, seg=None):
        return image * 2


def halved(image, inside, intensities):
    image /= 2


@pytest.mark.parametrize(("name", "expected"), [("Doubled", [2, 6]), ("halved", [0.5, 1.5])])
def test_schemes_of_ones_own_are_classes_or_functions(monkeypatch, name, expected):
    monkeypatch.setattr("nnunetv2.preprocessing.normalization.resolve", lambda *args: globals()[name])
    assert normalized([1, 3], f"{__name__}.{name}").tolist() == expected


class Masked(Doubled):
    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = True


def test_a_scheme_that_a_program_adds_for_a_channel_is_planned_by_its_path(monkeypatch):
    monkeypatch.setitem(channel_name_to_normalization_mapping, "mine", Masked)
    assert scheme_of_channel("Mine") == f"{__name__}.Masked" and may_use_mask("Mine") and may_use_mask("T1") and not may_use_mask("CT")


def test_a_function_is_given_the_mask_where_it_counts(monkeypatch):
    seen = []
    monkeypatch.setattr("nnunetv2.preprocessing.normalization.resolve", lambda *args: lambda image, inside, intensities: seen.append(inside))
    for use_mask in (True, False):
        normalize(np.zeros((1, 1, 2), np.float32), "package.function", use_mask, np.array([[[-1, 0]]]), {})
    assert seen[0].tolist() == [[[False, True]]] and seen[1] is None


def test_a_scheme_in_a_file_beside_ours_is_found_by_its_name(tmp_path, monkeypatch):
    from nnunetv2 import preprocessing

    (tmp_path / "scheme_of_this_test.py").write_text("from nnunetv2.preprocessing.normalization import NoNormalization\nclass Beside(NoNormalization):\n    pass\n")
    monkeypatch.setattr(preprocessing, "__path__", [*preprocessing.__path__, str(tmp_path)])
    assert scheme_by_name("Beside").__name__ == "Beside"


def test_an_unknown_scheme_of_a_configuration_is_named_with_its_file():
    check_schemes({"normalization_schemes": ["CTNormalization"]}, "plans.json")
    check_schemes({}, "plans.json")
    with pytest.raises(InputError, match=r"plans\.json: normalization_schemes names 'eval'"):
        check_schemes({"normalization_schemes": ["CTNormalization", "eval"]}, "plans.json")


def test_ct_without_its_statistics_names_them():
    scheme = SCHEMES["CTNormalization"](use_mask_for_norm=False, intensityproperties={"mean": 1.0, "std": 2.0})
    with pytest.raises(ValueError, match="needs percentile_00_5, percentile_99_5 of the channel"):
        scheme.run(np.zeros((2, 2), np.float32))
