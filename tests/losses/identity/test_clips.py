"""The identity loss on clips: a few latents of each are decoded, by image and by causal video codecs."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL

from portraitgen.diffusion.latents import PixelCodec, VAECodec
from portraitgen.diffusion.video_latents import PixelVideoCodec
from tests.diffusion.test_video_latents import CODECS, clips
from tests.losses.identity.glance import face_loss, points

SIDE = 32


def image_vae(**settings):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
        shift_factor=0.3,
    )
    return VAECodec(vae, **settings)


BUILD = {
    "pixels": lambda: PixelCodec(2),
    "vae": image_vae,
    "pixels of clips": lambda: PixelVideoCodec(2),
    "cogvideox": CODECS["cogvideox"],
    "wan": CODECS["wan"],
}


def pass_of(codec, num_latents, *, scale=1.0):
    """Latents of two clips, with a face in every frame."""
    torch.manual_seed(2)
    frames = clips(codec.num_frames(num_latents), batch=2, size=SIDE)
    clean = codec.encode(frames)
    estimate = (clean + 0.3 * torch.randn_like(clean)).requires_grad_()
    return SimpleNamespace(
        batch={
            "key": ["a", "b"],
            "frames": frames,
            "key_points": points(SIDE).expand(*frames.shape[:2], 5, 2).clone(),
        },
        prediction=estimate,
        noised=SimpleNamespace(clean=clean),
        clean_estimate=estimate,
        noise_level=torch.tensor([0.1, 0.6]),
        decode=codec.decode,
        decode_span=lambda latents, start, stop, context: codec.decode_span(
            latents, start, stop, context=context
        ),
        frames_of=codec.frames_of,
        keep={},
        nonzero={},
    )


@pytest.mark.parametrize("name", BUILD)
def test_a_few_latents_stand_for_their_frames_of_the_whole_clip(name):
    """The same loss as on those frames of all that the codec decodes; gradients reach those latents."""
    codec = BUILD[name]()
    seen = pass_of(codec, 3)
    loss = face_loss(face_latents=1)
    starts = set()
    for seed in range(6):
        torch.manual_seed(seed)
        value = loss(seen)
        torch.manual_seed(seed)
        start = int(torch.randint(3, ()))
        starts.add(start)
        chosen = codec.frames_of(start, start + 1)
        count = chosen.stop - chosen.start
        assert value.loss.count == 2 * count
        with torch.no_grad():
            whole = codec.decode(seen.clean_estimate)[:, chosen].flatten(0, 1)
            true = seen.batch["frames"][:, chosen].flatten(0, 1)
            where = points(SIDE).expand(len(whole), 5, 2)
            looks = [loss.distance.look(loss.crops(each, where)[0]) for each in (whole, true)]
            expected, _ = loss.distance(*looks)
        assert value.loss.total.item() == pytest.approx(expected.sum().item(), rel=1e-4)
        seen.clean_estimate.grad = None
        value.loss.total.backward()
        reached = seen.clean_estimate.grad.flatten(2).any(2)
        assert reached[:, start].all()
        if name != "cogvideox":  # which decodes two and three latents together
            assert not reached[:, start + 1 :].any(), "what comes later is not decoded"
    assert starts == {0, 1, 2}
    assert face_loss(face_latents=None)(seen).loss.count == 2 * codec.num_frames(3)


@pytest.mark.parametrize("name", ["vae", "cogvideox", "wan"])
def test_running_the_decoder_again_changes_no_gradient_and_gradients_stop_at_its_weights(name):
    found = []
    for settings in ({"checkpoint_decoder": False}, {"checkpoint_decoder": True}, {"decode_samples": 2}):
        seen = pass_of(BUILD[name](), 2)
        torch.manual_seed(0)
        value = face_loss(**settings)(seen)
        value.loss.total.backward()
        found.append((value.loss.total.detach(), seen.clean_estimate.grad))
    for total, gradient in found[1:]:
        torch.testing.assert_close(total, found[0][0], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-3, atol=1e-6)
    assert found[0][1].any()


def test_blocks_of_the_decoder_can_be_run_again_as_well():
    gradients = []
    for again in (False, True):
        codec = image_vae(gradient_checkpointing=again)
        seen = pass_of(codec, 2)
        torch.manual_seed(0)
        face_loss()(seen).loss.total.backward()
        assert not any(parameter.requires_grad for parameter in codec.parameters())
        gradients.append(seen.clean_estimate.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["vae", "cogvideox"])
def test_nothing_is_kept_of_a_decoder_that_runs_again(name):
    """Bytes that the graph holds until the gradient: of one clip more they are its pictures alone."""

    def kept(checkpoint):
        seen, held = pass_of(BUILD[name](), 2), []

        def pack(tensor):
            held.append(tensor.untyped_storage().data_ptr())
            sizes[held[-1]] = tensor.untyped_storage().nbytes()
            return tensor

        sizes = {}
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            face_loss(checkpoint_decoder=checkpoint)(seen)
        return sum(sizes.values())

    assert kept(True) < kept(False) / 3


def test_clips_without_pictures_are_compared_with_their_own_latents_decoded():
    codec = PixelCodec(2)
    seen = pass_of(codec, 2)
    torch.manual_seed(0)
    with_pictures = face_loss()(seen)
    del seen.batch["frames"]
    with pytest.raises(ValueError, match=r"pictures=true\), or take face_target=latents"):
        face_loss()(seen)
    torch.manual_seed(0)
    without = face_loss(face_target="latents")(seen)
    assert without.loss.total.item() == pytest.approx(with_pictures.loss.total.item(), rel=1e-4)
