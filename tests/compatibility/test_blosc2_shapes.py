"""nnU-Net's blocks and chunks; sizes by hand, as its rule gives them."""

import pytest

from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params


def test_a_small_image_is_one_block():
    assert comp_blosc2_params((2, 4, 5, 6), (8, 8, 8)) == ((1, 4, 5, 6), (1, 4, 5, 6))


def test_blocks_are_powers_of_two_that_fit_their_limit_later_axes_first():
    """64 x 64 x 64 voxels of 4 bytes are 1 MiB; three halvings, from the last axis on, leave 128 KiB."""
    block, _ = comp_blosc2_params((1, 64, 64, 64), (64, 64, 64))
    assert block == (1, 32, 32, 32)
    assert comp_blosc2_params((1, 64, 64, 64), (64, 64, 64), max_block_nbytes=512 * 1024)[0] == (1, 64, 64, 32)


def test_chunks_grow_by_blocks_up_to_the_patchs_share():
    """A patch of 8 allows chunks of 12: a block of 8 and half of another."""
    assert comp_blosc2_params((1, 30, 30, 30), (8, 8, 8))[1] == (1, 12, 12, 12)
    assert comp_blosc2_params((1, 30, 30, 30), (8, 8, 8), max_chunk_to_patch_ratio_per_axis=None)[1] == (1, 30, 30, 30)


def test_the_longest_axis_of_equals_grows_until_the_bytes_are_spent():
    assert comp_blosc2_params((1, 16, 20, 16), (8, 8, 8), bytes_per_pixel=1, max_chunk_nbytes=1024, max_chunk_to_patch_ratio_per_axis=2)[1] == (1, 8, 16, 8)


def test_slices_stay_single():
    assert comp_blosc2_params((1, 9, 8, 8), (8, 8)) == ((1, 1, 8, 8), (1, 1, 8, 8))
    assert comp_blosc2_params((1, 9, 8, 8), (1, 8, 8), max_chunk_to_patch_ratio_per_axis=None)[1] == (1, 1, 8, 8)
    grown = comp_blosc2_params((1, 9, 8, 8), (1, 8, 8), max_chunk_to_patch_ratio_per_axis=None, grow_singleton_patch_axes=True)
    assert grown[1] == (1, 9, 8, 8)


@pytest.mark.parametrize(("arguments", "told"), [
    (((4, 4, 4), (4, 4, 4)), "image"), (((1, 4, 4, 4), (4,)), "patch"), (((1, 0, 4, 4), (4, 4, 4)), "at least 1"),
    (((1, 4, 4, 4), (4, 4, 4), 0), "Byte counts"), (((1, 4, 4, 4), (4, 4, 4), 4, 128, 128, 0.5), "max_chunk_to_patch_ratio_per_axis is 0.5"),
    (((1, 4, 4, 4), (4, 4, 4), 4, 3), "below one voxel")])
def test_what_cannot_be_met_is_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        comp_blosc2_params(*arguments)
