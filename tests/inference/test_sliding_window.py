import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian, compute_steps_for_sliding_window, even_tile, mirror_views, odd_windows, pad_centred, predict_windows, whole_volume_tile, window_slicers,
)


class CoordinateEngine:
    """Channel 0 is 0, channel 1 a multiple of the image: any tiling and any mirroring must give the image back."""

    name, precision = "fake", "fp32"

    def __init__(self, batch_size=1, scale=1.0, class_logits=None):
        self.batch_size, self.scale, self.class_logits = batch_size, scale, class_logits
        self.seen = []

    def __call__(self, x, classify=True):
        self.seen.append(tuple(x.shape))
        logits = torch.stack([torch.zeros_like(x[:, 0]), x[:, 0] * self.scale], 1)
        return logits, None if self.class_logits is None else self.class_logits.expand(len(x), -1)


def test_steps_of_the_documented_example():
    assert compute_steps_for_sliding_window((110,), (64,), 0.5) == [[0, 23, 46]]


def test_one_step_when_image_and_tile_are_equal():
    assert compute_steps_for_sliding_window((64, 100), (64, 64), 0.5) == [[0], [0, 18, 36]]


@pytest.mark.slow
@given(st.integers(1, 60), st.integers(0, 200), st.floats(0.1, 1))
def test_steps_cover_the_image_without_gap(tile, extra, step):
    starts, = compute_steps_for_sliding_window((tile + extra,), (tile,), step)
    assert starts[0] == 0 and starts[-1] == extra
    assert all(0 <= b - a <= tile * step + 1 for a, b in zip(starts, starts[1:]))


def test_image_smaller_than_tile_is_refused():
    with pytest.raises(ValueError, match="smaller than the tile"):
        compute_steps_for_sliding_window((10, 20), (16, 16), 0.5)


@pytest.mark.parametrize("tile", [(8, 16, 12), (7, 32), (64, 5, 5)])
def test_gaussian_is_the_3d_filter_of_an_impulse(tile):
    impulse = np.zeros(tile)
    impulse[tuple(n // 2 for n in tile)] = 1
    expected = gaussian_filter(impulse, [n / 8 for n in tile], mode="constant")
    expected *= 10 / expected.max()
    got = compute_gaussian(tile, 1 / 8, 10, torch.float32).numpy()
    held = expected.astype(np.float32) > 0
    np.testing.assert_allclose(got[held], expected[held], rtol=1e-6)


def test_gaussian_has_no_zero_in_fp16():
    gaussian = compute_gaussian((64, 128, 192), 1 / 8, 10)
    assert gaussian.dtype == torch.float16 and gaussian.max() == 10 and gaussian.min() > 0


def test_views_come_identity_first_then_by_number_of_axes():
    assert mirror_views((0, 1, 2), 8) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("axes, tta, views", [
    ((0, 1, 2), 4, [(), (0, 1), (0, 2), (1, 2)]), ((0, 1, 2), 2, [(), (0, 1, 2)]), ((0, 1, 2), 1, [()]), ((1, 2), 2, [(), (1, 2)]), ((1,), 2, [(), (1,)])])
def test_fewer_views_have_as_little_in_common_as_can_be(axes, tta, views):
    assert mirror_views(axes, tta) == views


def test_no_more_views_than_training_mirrored():
    assert mirror_views((0, 1), 8) == [(), (0,), (1,), (0, 1)]
    assert mirror_views(None, 8) == [()]


def test_padding_puts_the_odd_voxel_behind():
    padded, inner = pad_centred(torch.ones(1, 2, 3), (5, 3))
    assert padded[0, :, 0].tolist() == [0, 1, 1, 0, 0]
    assert torch.equal(padded[inner], torch.ones(1, 2, 3))


def test_padding_without_need_copies_nothing():
    data = torch.ones(1, 4, 4)
    assert pad_centred(data, (3, 4))[0] is data


@pytest.mark.parametrize("shape, tile", [((59, 117, 180), (64, 128, 192)), ((64, 128, 192), (64, 128, 192)), ((3, 3, 3), (16, 32, 64))])
def test_whole_volume_tile_is_the_next_multiple_of_the_strides(shape, tile):
    assert whole_volume_tile(shape, (16, 32, 32)) == tile


@pytest.mark.slow
@given(st.tuples(*[st.integers(1, 300)] * 3))
def test_even_tiles_need_no_more_windows_than_the_largest(shape):
    largest, divisor = (64, 128, 192), (8, 32, 32)
    tile = even_tile(shape, largest, divisor)
    assert all(t <= limit and t % d == 0 for t, limit, d in zip(tile, largest, divisor))
    assert all(-(-n // t) == -(-n // limit) for n, t, limit in zip(shape, tile, largest))


def test_a_2d_tile_visits_every_slice():
    slicers = window_slicers((3, 8, 8), (8, 8), 0.5)
    assert [s[1] for s in slicers] == [0, 1, 2]


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.tuples(*[st.integers(2, 7)] * 3), st.sampled_from([1, 3, 8]), st.sampled_from([0.5, 1.0]), st.booleans())
def test_logits_are_put_back_where_they_came_from(shape, batch_size, step, gaussian):
    data = torch.arange(1.0, 1 + np.prod(shape)).reshape(1, *shape)
    logits = predict_windows(CoordinateEngine(batch_size), data, (4, 4, 6), step, mirror_views((0, 1, 2), 8), gaussian, torch.float32)
    torch.testing.assert_close(logits[1], data[0], rtol=1e-5, atol=1e-4)


def test_a_2d_network_gets_4d_batches():
    engine = CoordinateEngine(batch_size=2)
    data = torch.rand(1, 3, 8, 8)
    logits = predict_windows(engine, data, (8, 8), 0.5, [(), (1,)], accumulate=torch.float32)
    assert engine.seen == [(2, 1, 8, 8)] * 3
    torch.testing.assert_close(logits[1], data[0])


def test_batches_mix_windows_and_views():
    engine = CoordinateEngine(batch_size=3)
    predict_windows(engine, torch.rand(1, 4, 4, 8), (4, 4, 4), 1.0, [(), (0,)])
    assert [shape[0] for shape in engine.seen] == [3, 1]


def test_windows_are_weighted_by_the_gaussian():
    class WindowNumber(CoordinateEngine):
        def __call__(self, x, classify=True):
            self.seen.append(0)
            return torch.full((1, 1, *x.shape[2:]), float(len(self.seen))), None

    logits = predict_windows(WindowNumber(), torch.zeros(1, 4, 4, 6), (4, 4, 4), 0.5, accumulate=torch.float32)
    g = compute_gaussian((4, 4, 4), 1 / 8, 10).float()
    a, b = g[2, 2, 3], g[2, 2, 1]  # voxel 3 along x lies at 3 in the first window (start 0) and at 1 in the second (start 2)
    torch.testing.assert_close(logits[0, 2, 2, 3], (a * 1 + b * 2) / (a + b))


def test_accumulators_are_fp16_by_default():
    assert predict_windows(CoordinateEngine(), torch.rand(1, 4, 4, 4), (4, 4, 4)).dtype == torch.float16


def test_overflow_of_fp16_sums_is_redone_in_fp32():
    data = torch.full((1, 4, 4, 4), 10.0)
    with pytest.warns(UserWarning, match="overflow"):
        logits = predict_windows(CoordinateEngine(scale=1e4), data, (4, 4, 4))
    assert logits.dtype == torch.float32 and logits[1].unique().tolist() == pytest.approx([1e5])


def test_observer_gets_the_mean_logits_and_every_views_class():
    class Observer:
        calls = []

        def reset(self):
            self.calls.clear()

        def add(self, seg_logits, class_logits):
            self.calls.append((tuple(seg_logits.shape), tuple(class_logits.shape)))

    observer = Observer()
    engine = CoordinateEngine(3, class_logits=torch.tensor([1.0, 2.0]))
    predict_windows(engine, torch.rand(1, 4, 4, 8), (4, 4, 4), 1.0, [(), (0,)], observer=observer)
    assert observer.calls == [((2, 4, 4, 4), (2, 2))] * 2
    predict_windows(engine, torch.rand(1, 4, 4, 8), (4, 4, 4), 1.0, [(), (0,)], observer=observer, observed_views=[()])
    assert observer.calls == [((2, 4, 4, 4), (1, 2))] * 2


def test_result_does_not_depend_on_the_input_being_overwritten():
    data = torch.rand(1, 5, 6, 7)
    before = data.clone()
    predict_windows(CoordinateEngine(), data, (4, 4, 4), 0.5, [(), (1,)])
    assert torch.equal(data, before)


class FirstPlaceEngine:
    """Channel 1 says of every voxel of a window what its first voxel along the last axis holds, in the view that is seen."""

    name, precision, batch_size = "fake", "fp32", 1

    def __init__(self):
        self.n_passes = 0

    def __call__(self, x, classify=True):
        self.n_passes += 1
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0, ..., :1].expand_as(x[:, 0])], 1), None


def test_windows_of_one_colour_of_a_chessboard():
    assert odd_windows((4, 8, 6), (4, 4, 4), 0.5) == [False, True, True, False, False, True]  # starts: 0; 0, 2, 4; 0, 2
    assert odd_windows((3, 4, 6), (4, 4), 0.5) == [False, True] * 3  # a 2D tile, slice by slice


@pytest.mark.parametrize("in_turn, last_two", [((), 2.0), ((2,), 5.0), ((0, 1), 2.0)])
def test_every_other_window_is_mirrored_along_the_axes_that_take_turns(in_turn, last_two):
    row = torch.arange(6.0).expand(1, 4, 4, 6)  # windows 0 1 2 3 and 2 3 4 5
    engine = FirstPlaceEngine()
    found = predict_windows(engine, row, (4, 4, 4), 0.5, gaussian=False, in_turn=in_turn)[1, 0, 0]
    assert found.tolist() == [0, 0, last_two / 2, last_two / 2, last_two, last_two] and engine.n_passes == 2


def test_a_window_that_takes_its_turn_is_mirrored_in_all_its_views():
    row = torch.arange(6.0).expand(1, 4, 4, 6)
    found = predict_windows(FirstPlaceEngine(), row, (4, 4, 4), 0.5, [(), (2,)], gaussian=False, in_turn=(2,))[1, 0, 0]
    assert found.tolist() == [1.5, 1.5, 2.5, 2.5, 3.5, 3.5]  # means of 0 and 3, and of 5 and 2


def test_mirroring_in_turn_is_undone(batch_size=3):
    volume = torch.rand(1, 7, 9, 10)
    found = predict_windows(CoordinateEngine(batch_size), volume, (4, 4, 4), 0.5, mirror_views((0, 2), 4), accumulate=torch.float32, in_turn=(0, 1, 2))
    torch.testing.assert_close(found[1], volume[0], atol=1e-5, rtol=0)
