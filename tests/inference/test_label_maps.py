import torch

from nnunetv2.inference.label_maps import channels_that_may_win, winning_channels


def test_the_first_of_equal_channels_wins():
    logits = torch.tensor([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0, 2.0, 3.0]]).reshape(3, 1, 1, 3)
    assert winning_channels(logits).flatten().tolist() == [0, 1, 2]


def test_a_channel_below_the_least_of_another_cannot_win():
    logits = torch.tensor([[3.0, 3.0, 9.0], [1.0, 2.0, 2.9], [-5.0, 3.0, 0.0], [4.0, -9.0, -9.0]]).reshape(4, 1, 1, 3)
    assert channels_that_may_win(logits) == [0, 2, 3]  # the first is 3 at least; 2.9 is below, 3 may tie
