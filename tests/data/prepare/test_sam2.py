"""Masks by SAM 2: a tiny network of the published class, against its own propagation over a whole video."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from portraitgen.data.prepare.sam2 import Prompt, Sam2Masks, follow
from portraitgen.data.sample import ClipRegion, DataError
from portraitgen.media.masks import decode_rle, decode_rle_batch
from tests.synthetic import synthetic_clip

SIDE, LENGTH = 64, 22
SIZE = (48, 56)


@pytest.fixture(scope="module")
def network():
    from transformers import Sam2VideoConfig, Sam2VideoModel

    torch.manual_seed(3)
    width, feature_sizes = 128, [[SIDE // step, SIDE // step] for step in (4, 8, 16)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "window_positional_embedding_background_size": [4, 4],
        "blocks_per_stage": [1, 1, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 2, 4, 2],
        "global_attention_blocks": [],
    }
    config = Sam2VideoConfig(
        image_size=SIDE,
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": feature_sizes,
            "fpn_hidden_size": width,
        },
        prompt_encoder_config={"hidden_size": width, "image_size": SIDE, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
        memory_attention_hidden_size=width,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=feature_sizes[-1],
        memory_encoder_hidden_size=width,
        mask_downsampler_embed_dim=width,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=32,
    )
    model = Sam2VideoModel(config).eval()
    # Random weights see no object nowhere: without this all masks were empty.
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(10.0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
    return model


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam2")
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def video():
    """float [T, 3, H, W] in [-1, 1]."""
    noise = torch.rand(LENGTH, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, SIZE, mode="bilinear") * 2 - 1


PROMPTS = {
    4: Prompt(9, np.array([8, 6, 30, 40], np.float32)),
    2: Prompt(0, np.array([20, 10, 50, 30], np.float32)),
    7: Prompt(LENGTH - 1, np.array([3, 20, 33, 44], np.float32)),
    5: Prompt(9, np.array([30, 8, 52, 28], np.float32)),
}


def masks_of(network, video, prompts):
    """bool [T, M, H, W]."""
    runs = follow(network, lambda frame: video[frame], len(video), prompts, SIZE)
    return np.stack([decode_rle(run, SIZE) for run in runs]).reshape(len(video), len(prompts), *SIZE)


def propagated(network, video, prompt, *, reverse):
    """Masks of one object as the library follows it when it holds the whole video: frame -> bool [H, W]."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    resized = F.interpolate(video, (SIDE, SIDE), mode="bilinear", antialias=True) / 2 + 0.5
    pixels = (resized - mean[:, None, None]) / std[:, None, None]
    session = Sam2VideoInferenceSession(
        video=pixels, video_height=SIZE[0], video_width=SIZE[1], dtype=torch.float32
    )
    corners = torch.tensor(prompt.box).reshape(1, 1, 2, 2) * torch.tensor([SIDE / SIZE[1], SIDE / SIZE[0]])
    points = {"point_coords": corners, "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32)}
    session.add_point_inputs(session.obj_id_to_idx(1), prompt.frame, points)
    session.obj_with_new_inputs = [1]
    with torch.inference_mode():
        network(session, frame_idx=prompt.frame)
        outputs = network.propagate_in_video_iterator(session, start_frame_idx=prompt.frame, reverse=reverse)
        return {
            output.frame_idx: F.interpolate(output.pred_masks, SIZE, mode="bilinear")[0, 0].numpy() > 0
            for output in outputs
        }


@pytest.mark.parametrize("number", PROMPTS)
def test_masks_are_those_of_the_library_over_the_whole_video(network, video, number):
    """In both directions from the prompt, to both ends, though frames and old memory are forgotten."""
    masks = masks_of(network, video, {number: PROMPTS[number]})[:, 0]
    expected = propagated(network, video, PROMPTS[number], reverse=True)
    expected |= propagated(network, video, PROMPTS[number], reverse=False)
    assert sorted(expected) == list(range(LENGTH)) or PROMPTS[number].frame == 0
    shares = [mask.mean() for mask in masks]
    assert 0.02 < np.mean(shares) < 0.98
    assert len(set(shares)) > LENGTH // 2, "masks of frames differ"
    for frame, mask in expected.items():
        np.testing.assert_array_equal(masks[frame], mask, err_msg=f"frame {frame}")


def test_objects_hardly_depend_on_each_other_and_not_on_their_order(network, video):
    together = masks_of(network, video, PROMPTS)
    turned = masks_of(network, video, dict(reversed(PROMPTS.items())))[:, ::-1]
    np.testing.assert_array_equal(together, turned)
    for column, (number, prompt) in enumerate(PROMPTS.items()):
        alone = masks_of(network, video, {number: prompt})[:, 0]
        assert (together[:, column] == alone).mean() > 0.99
    assert (together[:, 0] != together[:, 1]).mean() > 0.05, "objects of one frame have masks of their own"


def test_every_frame_is_looked_at_at_most_once_in_each_direction(network, video):
    """ConsisID looked at every frame once an object."""
    asked = []
    follow(network, lambda frame: asked.append(frame) or video[frame], LENGTH, PROMPTS, SIZE)
    assert asked == [*range(LENGTH), *range(LENGTH - 1, -1, -1)]
    asked.clear()
    follow(network, lambda frame: asked.append(frame) or video[frame], LENGTH, {4: PROMPTS[4]}, SIZE)
    assert asked == [*range(9, LENGTH), *range(9, -1, -1)]


def test_memory_does_not_grow_with_the_clip(network, video, monkeypatch):
    from transformers.models.sam2_video import modeling_sam2_video as library

    sessions = []

    class Watched(library.Sam2VideoInferenceSession):
        def __init__(self, **options):
            super().__init__(**options)
            sessions.append(self)

    monkeypatch.setattr(library, "Sam2VideoInferenceSession", Watched)
    follow(network, lambda frame: video[frame % LENGTH], 3 * LENGTH, {1: Prompt(0, PROMPTS[2].box)}, SIZE)
    outputs = sessions[0].output_dict_per_obj[0]
    horizon = network.config.max_object_pointers_in_encoder
    assert sessions[0].processed_frames == {}
    assert sorted(outputs["non_cond_frame_outputs"]) == list(range(3 * LENGTH - horizon, 3 * LENGTH))
    assert not any("high_res_masks" in kept for kept in outputs["non_cond_frame_outputs"].values())


def test_a_sample_gets_masks_of_every_region_that_has_boxes(folder):
    clip = synthetic_clip("face", num_frames=14, size=SIDE, valid=np.arange(14) != 5)
    track = clip.tracks[0]
    scores = np.linspace(0, 1, 14, dtype=np.float32)
    head = ClipRegion(boxes=track.boxes + np.float32([-4, -6, 4, 2]), scores=scores, valid=np.arange(14) < 9)
    nowhere = ClipRegion(
        boxes=np.full((14, 4), np.nan, np.float32), scores=scores * np.nan, valid=np.zeros(14, bool)
    )
    people = (replace(track, head=head, person=nowhere), replace(track, boxes=track.boxes + np.float32(5)))
    sample = Sam2Masks(str(folder))(replace(clip, tracks=people))
    assert (sample.masks.source, sample.masks.ids) == ("sam2", (1, 2, 3))
    assert [track.mask_ids for track in sample.tracks] == [{"face": 1, "head": 2}, {"face": 3}]
    # The head's surest frame that is valid; the faces' scores are all equal.
    assert [track.control_frames for track in sample.tracks] == [{"face": 0, "head": 8}, {"face": 0}]
    masks = decode_rle_batch(sample.masks.runs, sample.masks.offsets, (SIDE, SIDE), np.arange(14 * 3))
    assert masks.any(axis=(1, 2)).all()
    alone = Sam2Masks(str(folder))(clip)
    found = decode_rle_batch(alone.masks.runs, alone.masks.offsets, (SIDE, SIDE), np.arange(14))
    assert (found == masks[::3]).mean() > 0.99


def test_nobody_to_begin_with(folder):
    clip = synthetic_clip("face", num_frames=3, size=32)
    unseen = replace(clip, tracks=(replace(clip.tracks[0], valid=np.zeros(3, bool)),))
    with pytest.raises(DataError, match=r"sample face-000000000: no person has a valid box"):
        Sam2Masks(str(folder))(unseen)


def test_weights_are_looked_for_before_the_work(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"masks\.model=\S+: config\.json and model\.safetensors not there; give"
    ):
        Sam2Masks(str(tmp_path))
    with pytest.raises(ValueError, match=r"masks\.model=some/where: no such folder, and not to be had"):
        Sam2Masks("some/where")
    with pytest.raises(ValueError, match=r"masks\.dtype=int8: give one of float32, bfloat16, float16"):
        Sam2Masks(str(folder), dtype="int8")
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="is a 'clip' model, not a 'sam2_video'"):
        Sam2Masks(str(tmp_path))
