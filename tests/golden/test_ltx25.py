"""Generated keyframes, sampling and rules of LTX-2.5 against the official code."""

import sys
from pathlib import Path

import pytest
import torch
from einops import rearrange

from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.items import ImageInPlace
from ltx2_core.conditioning.masks import mask_like, token_mask
from ltx2_core.conditioning.patchify import patchify_audio, patchify_video, unpatchify_audio
from ltx2_core.conditioning.slots import KeyframeSlots, generated_keyframes, spread_keyframes
from ltx2_core.conditioning.state import drop_guides
from ltx2_core.run.dfr_layout import plan_canvas
from ltx2_core.run.dfr_plan import ETA, plan_dfr
from ltx2_core.run.recipes import recipe_for
from ltx2_core.run.request import Request
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.noise import make_noise
from ltx2_core.sampling.samplers import ancestral_step, get_sampler
from ltx2_core.sampling.schedules import FIXED_SIGMAS
from ltx2_core.shapes import frames_of, latent_frames_of
from ltx2_core.types import AVLatent, LatentState, Numerics, TextContext

sys.path.insert(0, str(Path(__file__).parent))

from test_transformer import inputs_of, model_of

TOLERANCE = 1e-4
STATE_TOLERANCE = 1e-5


def grid(golden, tokens):
    """Video tokens (B, N, C) as a latent whose frames include those appended to the clip."""
    _, height, width = golden.sidecar["video_grid_FHW"]
    return rearrange(tokens, "b (f h w) c -> b c f h w", h=height, w=width)


def with_slots(golden, state, initial=None):
    slots = tuple(golden.sidecar["slots"])
    return KeyframeSlots(frames=slots, initial=initial).apply(state) if slots else state


def positions_of(denoiser):
    """The positions and the marks of the video tokens that the model gets."""
    stream = denoiser._passes._clip._video
    return stream.positions, stream.keyframes


@pytest.mark.golden("keyframe_slots")
def test_the_state_with_slots_is_the_official_one(golden):
    tensors = inputs_of(golden)
    latent = AVLatent(tensors["in/video_latent"], tensors["in/audio_latent"])
    state = LatentState(
        latent=latent,
        mask=AVLatent(tensors["in/video_denoise_mask"], tensors["in/audio_denoise_mask"]),
        fps=golden.sidecar["fps"],
    )
    guide, initial = golden.sidecar["guide_at"], tensors.get("in/slot_initials")
    if guide is not None:
        latents = tensors["in/guide_latent"]
        first = latent.video[0, 0].numel()
        strength = 1 - tensors["in/video_mask_tokens"][0, first, 0].item()
        item = GuideFrames(latent=latents, frame=guide, strength=strength, single_frame=latents.shape[2] == 1)
        state = item.apply(state)
    target = state.latent.video.shape[2]
    state = with_slots(golden, state, initial)
    assert target * latent.video[0, 0, 0].numel() == golden.sidecar["layout"]["first_token"]

    video, masks = state.latent.video, token_mask(state.mask.video)
    expected = grid(golden, tensors["in/video_state_latent"])
    # What a guide starts from has no meaning where the mask preserves it; the clean content has.
    torch.testing.assert_close(video[:, :, target:], expected[:, :, target:], atol=0, rtol=0)
    torch.testing.assert_close(masks, tensors["in/video_mask_tokens"][..., 0], atol=STATE_TOLERANCE, rtol=0)
    denoise = Denoiser(
        model_of(golden),
        state,
        TextContext(tensors["in/video_context"], tensors["in/audio_context"]),
    )
    positions, marks = positions_of(denoise)
    torch.testing.assert_close(
        positions.expand_as(tensors["in/video_positions"]), tensors["in/video_positions"], atol=2e-7, rtol=0
    )
    assert torch.equal(
        marks.expand_as(tensors["in/video_keyframes_mask"]), tensors["in/video_keyframes_mask"]
    )
    kept = generated_keyframes(AVLatent(grid(golden, tensors["in/video_tokens"]), latent.audio), state)
    assert torch.equal(kept, grid(golden, tensors["in/video_tokens"])[:, :, target:])
    assert torch.equal(drop_guides(state.latent, state).video, latent.video)


def state_of(golden, tensors):
    """The conditioned state of a trajectory: an image in place, if there is one, then its slots."""
    frames, *_ = golden.sidecar["video_grid_FHW"]
    video = grid(golden, tensors["in/video_clean"])[:, :, :frames]
    latent = AVLatent(video, unpatchify_audio(torch.zeros_like(tensors["in/audio_start"])))
    state = LatentState(latent=latent, mask=mask_like(latent), fps=golden.sidecar["fps"])
    if "in/image_latent" in tensors:
        strength = 1 - tensors["in/video_mask_tokens"][0, 0, 0].item()
        state = ImageInPlace(latent=tensors["in/image_latent"], strength=strength).apply(state)
    return with_slots(golden, state)


def latent_of(golden, video, audio):
    return AVLatent(grid(golden, video), unpatchify_audio(audio))


def stage_of(sigmas, eta, recipe):
    """The names of schedule and sampler of the stage that a trajectory with ``sigmas`` and ``eta`` is of."""
    stages = {
        (len(FIXED_SIGMAS[recipe.sigmas]), recipe.eta): (recipe.sigmas, recipe.sampler),
        (len(FIXED_SIGMAS[recipe.stage2_sigmas]), None): (recipe.stage2_sigmas, recipe.stage2_sampler),
        # The graphs that ComfyUI publishes sample both stages alike.
        (len(FIXED_SIGMAS[recipe.node_stage2_sigmas]), recipe.eta): (
            recipe.node_stage2_sigmas,
            recipe.sampler,
        ),
        (len(FIXED_SIGMAS["temporal_round"]), ETA): ("temporal_round", recipe.sampler),
    }
    return stages[len(sigmas), eta]


@pytest.mark.golden("trajectory")
def test_a_distilled_run_passes_through_the_official_states(golden):
    tensors = golden.tensors()
    state = state_of(golden, tensors)
    torch.testing.assert_close(
        token_mask(state.mask.video), tensors["in/video_mask_tokens"][..., 0], atol=1e-6, rtol=0
    )
    eta = golden.sidecar["eta"]
    recipe = recipe_for("2.5", "distilled")
    schedule, sampler = stage_of(tensors["in/sigmas"], eta, recipe)
    torch.testing.assert_close(FIXED_SIGMAS[schedule], tensors["in/sigmas"], atol=1e-7, rtol=0)
    assert recipe.noise_by_token
    denoise = Denoiser(
        model_of(golden),
        state,
        TextContext(tensors["in/video_context"], tensors["in/audio_context"]),
    )
    entered = []

    def recorded(x, sigma):
        entered.append(x)
        return denoise(x, sigma)

    out = get_sampler(sampler, eta=eta)(
        recorded,
        latent_of(golden, tensors["in/video_start"], tensors["in/audio_start"]),
        tensors["in/sigmas"],
        generator=torch.Generator().manual_seed(golden.sidecar["noise_seed"]),
        preserve=denoise.preserve,
        noise_by_token=recipe.noise_by_token,
    )
    videos = [*tensors["out/video_steps"], tensors["out/video"]]
    audios = [*tensors["out/audio_steps"], tensors["out/audio"]]
    for found, video, audio in zip([*entered[1:], out], videos, audios, strict=True):
        torch.testing.assert_close(patchify_video(found.video), video, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(patchify_audio(found.audio), audio, atol=TOLERANCE, rtol=0)


@pytest.mark.golden("trajectory")
def test_a_step_draws_noise_for_tokens_video_first(golden):
    tensors = golden.tensors()
    generator = torch.Generator().manual_seed(golden.sidecar["noise_seed"])
    steps = zip(tensors.get("in/video_noise", ()), tensors.get("in/audio_noise", ()), strict=True)
    for video, audio in steps:
        noise = make_noise(latent_of(golden, video, audio), generator, by_token=True)
        assert torch.equal(patchify_video(noise.video), video)
        assert torch.equal(patchify_audio(noise.audio), audio)


@pytest.mark.golden("numbers_ltx25")
def test_coefficients_of_ancestral_steps_are_the_official_ones(golden):
    for eta, sigma, sigma_next, of_x, of_x0, of_noise in golden.sidecar["ancestral_coefficients"]["rows"]:
        c = ancestral_step(sigma, sigma_next, eta)
        found = (c.alpha * c.down / sigma, c.alpha * (1 - c.down / sigma), c.noise)
        assert found == pytest.approx((of_x, of_x0, of_noise), rel=1e-5)


@pytest.mark.golden("numbers_ltx25")
def test_keyframes_and_lengths_are_placed_as_officially(golden):
    for count, frames, expected in golden.sidecar["evenly_spaced_keyframes"]:
        assert list(spread_keyframes(count, frames)) == expected
    for frames, snapped in golden.sidecar["snap_frames"]:
        assert frames_of(latent_frames_of(frames)) == snapped


@pytest.mark.golden("numbers_ltx25")
def test_the_layout_of_the_dfr_pipeline_is_the_official_one(golden):
    rows = golden.sidecar["dfr_canvas"]
    assert rows
    for row in rows:
        canvas = plan_canvas(row["frames"])
        assert (canvas.padded, canvas.segment) == (row["canvas"], row["segment"])
        assert list(canvas.keyframes) == row["positions"]
        rounds = range(len(row["output_frames_after_rounds"]))
        assert [canvas.frames_after(number) for number in rounds] == row["output_frames_after_rounds"]
        request = Request(
            prompt="",
            pipeline_kind="dfr",
            temporal_rounds=len(row["rounds"]),
            width=128,
            height=64,
            num_frames=row["frames"],
            fps=24.0,
        )
        first, second, *stages = plan_dfr(request, Numerics.OFFICIAL, recipe_for("2.5"))
        assert first.keyframes == second.keyframes == canvas.keyframes
        for number, expected in enumerate(row["rounds"], start=1):
            tiles = [stage.tile for stage in stages if stage.round == number]
            seams = sorted({anchor for tile in tiles for anchor in tile.anchors})
            assert seams == expected["seams"]
            assert seams[-1] + 1 == expected["frames"]
            found = [
                {
                    "pixel_start": tile.start,
                    "pixel_end": tile.end,
                    "latent_start": tile.latent_start,
                    "latent_end": tile.latent_end,
                    "anchors": list(tile.anchors),
                    "slots": list(tile.slots),
                    "drop_latent_prefix": tile.dropped,
                }
                for tile in tiles
            ]
            assert found == expected["tiles"]
