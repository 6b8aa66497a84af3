"""The connector's sizes, what of it sees time, and that an image costs one frame."""

import pytest
import torch

from xmtl_ray.models.connector import PADDING, Connector, tokens_per_medium


def make(kind: str, vision: int = 4, width: int = 8) -> Connector:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Connector(kind, vision, width).eval()


@pytest.mark.parametrize("kind", PADDING)
@pytest.mark.parametrize(("frames", "side"), [(2, 2), (3, 5), (8, 4), (5, 3)])
@torch.no_grad()
def test_tokens_are_counted_as_they_are_made(kind, frames, side):
    """N of the formula is N of the tensor, for even and odd frames and grids."""
    tokens = make(kind)([torch.randn(frames, side * side, 4)] * 2, frames)
    assert tokens.shape == (2, tokens_per_medium(kind, frames, side), 8)


def test_released_sizes():
    """The four released configurations, and the published counts of weights, without making any."""
    counts = [tokens_per_medium("stc_connector", frames, 24) for frames in (8, 16)]
    counts += [tokens_per_medium("stc_connector_v35", frames, 27) for frames in (16, 8)]
    assert counts == [845, 1521, 1352, 676]
    with torch.device("meta"):
        connectors = (Connector("stc_connector", 1024, 4096), Connector("stc_connector_v35", 1152, 3584))
    assert [sum(weight.numel() for weight in one.parameters()) for one in connectors] == [489_188_608, 376_889_248]


@pytest.mark.parametrize("kind", PADDING)
@torch.no_grad()
def test_an_image_once_is_the_image_held(kind):
    """One frame of features gives what T copies of it give, also in a batch with a video; the first stage ran once."""
    connector, seen = make(kind), []
    image, video = torch.randn(1, 9, 4), torch.randn(4, 9, 4)
    held = connector([image.expand(4, -1, -1), video], 4)
    connector.s1.register_forward_hook(lambda part, given, made: seen.append(len(made)))
    once = connector([image, video], 4)
    torch.testing.assert_close(once, held)
    assert seen == [5]


@torch.no_grad()
def test_order_of_time_and_space():
    """Tokens are slices in time first: another last frame changes only the last slice's tokens."""
    connector = make("stc_connector_v35")
    video = torch.randn(4, 16, 4)
    other = torch.cat([video[:3], torch.randn(1, 16, 4)])
    first, second = connector([video, other], 4)
    per_slice = 2 * 2
    assert torch.equal(first[:per_slice], second[:per_slice])
    assert not torch.allclose(first[per_slice:], second[per_slice:])


@torch.no_grad()
def test_media_do_not_see_each_other():
    """A medium's tokens are the same alone and among others."""
    connector = make("stc_connector")
    videos = [torch.randn(3, 9, 4) for _ in range(3)]
    together = connector(videos, 3)
    for number, video in enumerate(videos):
        torch.testing.assert_close(together[number], connector([video], 3)[0])


def test_recomputed_activations_change_no_gradient():
    """With and without ``checkpoint_activations`` the weights get the same gradients."""
    connector, video = make("stc_connector").train(), torch.randn(3, 9, 4)

    def gradients() -> list[torch.Tensor]:
        connector.zero_grad()
        connector([video], 3).square().sum().backward()
        return [weight.grad.clone() for weight in connector.parameters()]

    stored = gradients()
    connector.checkpoint_activations()
    assert connector.s1.grad_checkpointing and connector.s2.grad_checkpointing
    for recomputed, kept in zip(gradients(), stored, strict=True):
        torch.testing.assert_close(recomputed, kept)
