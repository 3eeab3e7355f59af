import pytest
import torch

from shared_model.diffusion.latents import BLOCK, CHANNELS, decode, encode


def test_decode_inverts_encode() -> None:
    volume = torch.randn(2, 8, 16, 24)
    latents = encode(volume)
    assert latents.shape == (2, CHANNELS, 4, 4, 6)
    torch.testing.assert_close(decode(latents), volume, atol=1e-5, rtol=0)


def test_orthonormal_so_that_errors_of_latents_are_errors_of_voxels() -> None:
    a, b = torch.randn(1, 8, 16, 16), torch.randn(1, 8, 16, 16)
    torch.testing.assert_close((encode(a) - encode(b)).square().sum(), (a - b).square().sum(), rtol=1e-5, atol=0)


def test_first_band_is_the_block_mean_times_sqrt_of_its_size() -> None:
    volume = torch.randn(1, *BLOCK)
    torch.testing.assert_close(encode(volume)[0, 0, 0, 0, 0], volume.mean() * CHANNELS**0.5)


def test_neighbours_do_not_leak_into_a_block() -> None:
    volume = torch.zeros(1, 8, 16, 16)
    volume[0, 3, 5, 9] = 1.0
    touched = encode(volume)[0].abs().sum(0).nonzero().tolist()
    assert touched == [[1, 1, 2]]


def test_shape_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        encode(torch.zeros(1, 9, 16, 16))
