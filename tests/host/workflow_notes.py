"""The note at the top left of each workflow: what it does, what to change, which files, what to expect."""

from __future__ import annotations

from dataclasses import dataclass

from workflow_files import (
    AUDIO_VAE25,
    CAMERA20,
    CANNY20,
    DETAILER20,
    DEV20,
    DEV23,
    DISTILLED20,
    DISTILLED23,
    DISTILLED25,
    DUBIT23,
    GEMMA3,
    GEMMA4,
    HDR23,
    LTXV2B,
    T5,
    TEMPORAL23,
    UNION23,
    UPSCALER20,
    UPSCALER23,
    UPSCALER25,
    UPSCALER_LTXV,
    VIDEO_VAE25,
    File,
)

ONE_STAGE = (DEV23, GEMMA3)
TWO_STAGES = (DEV23, GEMMA3, UPSCALER23, DISTILLED23)
FILES25 = (DISTILLED25, GEMMA4, VIDEO_VAE25, AUDIO_VAE25, UPSCALER25)
LTXV_FILES = (LTXV2B, T5)
TINY = (
    "Where the tiny test models are installed, this graph is set to them, with clips of 128 x 128; "
    "**LTX-2 > Use released model files** in the menu changes that. Otherwise it opens with the files below, "
    "which ComfyUI offers to download, and with sizes of real clips."
)
MEMORY = (
    "**LTX-2 Memory Plan** says what your size needs before you run it. If memory runs out, make the clip "
    "shorter or smaller, or add **LTX-2 Spatial Tiles**."
)


@dataclass(frozen=True)
class Note:
    """``change`` are the things to change first, in order; ``released`` graphs already name real files."""

    title: str
    does: str
    change: tuple[str, ...]
    files: tuple[File, ...] = TWO_STAGES
    released: bool = False

    def markdown(self) -> str:
        steps = "\n".join(f"{number}. {line}" for number, line in enumerate(self.change, start=1))
        files = "\n".join(file.line() for file in self.files)
        parts = [f"# {self.title}", self.does]
        parts += [] if self.released else [TINY]
        parts += [f"## Change first\n{steps}", f"## Files\n{files}", f"## Time and memory\n{MEMORY}"]
        return "\n\n".join(parts)


PROMPT = "**Prompt**: say what moves and what is heard, in the order in which it happens."
SEEN = "**Prompt**: say what moves, and how the camera does."
SIZE = "**Size and length**: seconds, size and frame rate."
IMAGE = "**First image**: your image. The prompt says what happens, not what the image already shows."
CLIP = "**Video file**: your clip."
SHAPED = "**Size and length**: seconds. The size follows the image; `megapixels` makes it larger or smaller."
STRENGTH = (
    "**Image as first frame**: strength -1 preserves 0.7 of the image in the first stage and all of it in "
    "the second, as the published graphs do; 1 is closer to the image and moves less."
)

NOTES = {
    "text_to_video_two_stages": Note(
        "Text to video with audio, two stages",
        "The full model makes the clip at half size in 20 steps; the upscaler doubles it, and 3 steps with "
        "the distilled LoRA add the detail.",
        (PROMPT, SIZE),
    ),
    "text_to_video_distilled": Note(
        "Text to video with audio, fast",
        "The distilled LoRA in both stages: 8 steps at half size and 3 at full size, without guidance.",
        (PROMPT, SIZE),
    ),
    "text_to_video_guided": Note(
        "Text to video with audio, best quality in one stage",
        "Video and audio are guided separately. The sampler res_2s evaluates the model twice a step.",
        (PROMPT, SIZE, "**Sampling**: the preset, or your own scales with the preset `by hand`."),
        ONE_STAGE,
    ),
    "camera_lora": Note(
        "A camera or style LoRA",
        "Your LoRA acts in both stages, the distilled LoRA in the second one only.",
        ("**LoRA**: your file and its strength.", PROMPT, SIZE),
        (DEV20, GEMMA3, UPSCALER20, DISTILLED20, CAMERA20),
    ),
    "image_to_video_two_stages": Note(
        "Image to video with audio, two stages",
        "Your image is the first frame of the clip. It is put in before both stages, so that it stays sharp.",
        (IMAGE, PROMPT, SHAPED),
    ),
    "image_to_video_distilled": Note(
        "Image to video with audio, fast",
        "Your image is the first frame. 8 steps at half size and 3 at full size, without guidance.",
        (IMAGE, PROMPT, SHAPED),
    ),
    "first_last_frame": Note(
        "From a first to a last frame",
        "Two images are the ends of the clip, and the model finds the way between them.",
        ("**First frame** and **Last frame**: images of the same shape.", PROMPT, SIZE),
        ONE_STAGE,
    ),
    "keyframes_two_stages": Note(
        "Keyframes",
        "An image is the first frame and another one a keyframe in the middle, in both stages.",
        (
            "**First frame** and **Keyframe**: your images; `frame` of LTX-2 Add Guide says when.",
            PROMPT,
            SIZE,
        ),
    ),
    "audio_to_video": Note(
        "Audio to video: talking, singing, music",
        "The video follows your recording, and the file carries the recording itself.",
        (
            "**Audio**: your recording; `start` skips its beginning.",
            "**Prompt**: who speaks or plays. Spoken words in the prompt make lips fit better.",
            "**Size and length**: as many seconds as the audio has.",
        ),
    ),
    "audio_image_to_video": Note(
        "Audio and image to video",
        "A portrait speaks or sings your recording, in one stage of 8 steps.",
        (IMAGE, "**Audio**: your recording.", "**Prompt**: who speaks, and the words.", SIZE),
        (DEV23, GEMMA3, DISTILLED23),
    ),
    "audio_image_two_stages": Note(
        "Audio and image to video, two stages",
        "A portrait speaks or sings your recording: half size, then full size with image and audio again.",
        (IMAGE, "**Audio**: your recording.", "**Prompt**: who speaks, and the words.", SHAPED),
    ),
    "video_to_audio": Note(
        "Video to audio: foley and music",
        "Your clip stays as it is and gets audio that fits.",
        (CLIP, "**Prompt**: what is heard. `ceiling` limits how loud it gets."),
        ONE_STAGE,
    ),
    "reference_audio": Note(
        "A voice of your own",
        "The clip's audio resembles the voice in a recording of a few seconds.",
        ("**Voice to imitate**: 3 to 10 s without music.", PROMPT, SIZE),
        ONE_STAGE,
    ),
    "extend_video": Note(
        "Continue a clip",
        "Your clip continues, video and audio; its last frames and its audio lead into the new part.",
        (CLIP, "**What to add**: seconds.", "**Prompt**: the whole clip, old and new."),
        ONE_STAGE,
    ),
    "retake_two_stages": Note(
        "Retake a part of a clip",
        "The seconds that you name are regenerated, of the video, of the audio or of both. The rest stays.",
        (CLIP, "**What to regenerate**: seconds such as `1-1.9`; an empty field keeps that stream.", PROMPT),
    ),
    "mask_past_the_end": Note(
        "Retake with single nodes, past the end of the clip",
        "What LTX-2 Retake does, from single nodes: encode, mask, sample. The mask may reach past the end.",
        (CLIP, "**What to regenerate**: seconds of video and audio.", PROMPT),
        ONE_STAGE,
    ),
    "video_to_video": Note(
        "Video to video",
        "Your clip is noised to 0.909 and sampled again with another prompt; its audio stays.",
        (CLIP, PROMPT, "**Sampling**: a shorter schedule changes less."),
        ONE_STAGE,
    ),
    "ic_lora_control": Note(
        "Follow a control video",
        "The clip follows edges, depth or a pose. One kind of control at a time, with its IC-LoRA.",
        ("**Video file**: the control video.", "**LoRA**: the IC-LoRA of that kind.", PROMPT),
        (DEV20, GEMMA3, CANNY20),
    ),
    "ic_lora_canny": Note(
        "Follow the edges of a clip",
        "The edges of your clip are found in the graph, and the new clip follows them.",
        (CLIP, PROMPT),
        (DEV20, GEMMA3, CANNY20),
    ),
    "ic_lora_image": Note(
        "Follow a control video from a first image",
        "As with a control video, and the clip begins with your image, which must match its first frame.",
        (IMAGE, "**Video file**: the control video.", PROMPT),
        (DEV20, GEMMA3, CANNY20),
    ),
    "ic_lora_image_two_stages": Note(
        "Follow a control video from a first image, two stages",
        "The control video acts at half size; the image is put in again at full size.",
        (IMAGE, "**Video file**: the control video.", PROMPT),
        (DEV20, GEMMA3, CANNY20, UPSCALER20, DISTILLED20),
    ),
    "ic_lora_two_stages": Note(
        "Follow a control video, two stages",
        "The control video acts at half size; the second stage has neither guide nor IC-LoRA.",
        ("**Video file**: the control video.", PROMPT, SIZE),
        (DEV20, GEMMA3, CANNY20, UPSCALER20, DISTILLED20),
    ),
    "ic_lora_union": Note(
        "Follow a control video at the size that its LoRA states",
        "The union LoRA of 2.3 reads its control video at half size; its file states so, the graph follows.",
        ("**Video file**: edges, depth or a pose.", PROMPT, SIZE),
        (DEV23, GEMMA3, UNION23),
    ),
    "detailer": Note(
        "Make a small clip large",
        "A small clip is noised to 0.909 and sampled again at the final size in windows, with its own audio.",
        (CLIP, "**Size and length**: the final size.", "**LoRA**: a detailer IC-LoRA."),
        (DEV20, GEMMA3, DETAILER20),
    ),
    "dub_video": Note(
        "New speech in the voice of a clip",
        "The speaker says something else: same voice, and lips that follow. The frames are the reference in "
        "both stages, the voice in the first.",
        (
            CLIP,
            "**Prompt**: what is said, in quotes, and how.",
            "**LoRA: Dub-It**: its file. With a distilled checkpoint leave the distilled LoRA out.",
        ),
        (DEV23, GEMMA3, UPSCALER23, DISTILLED23, DUBIT23),
    ),
    "hdr_from_video": Note(
        "HDR from an SDR clip",
        "The HDR IC-LoRA samples the clip again in log codes. They are decoded in float32 to linear light "
        "and saved as EXR images and as a 10-bit HLG master.",
        (
            CLIP,
            SIZE,
            "**Decode HDR**: curve; by the LoRA takes what its file states.",
            "**Save HDR**: what is written. It needs the package OpenEXR (`pip install OpenEXR`).",
        ),
        (DEV23, GEMMA3, DISTILLED23, HDR23),
    ),
    "long_video": Note(
        "A clip of any length",
        "Windows of a few seconds that overlap, with a prompt for each stretch of time. A run that was "
        "stopped resumes where it was.",
        ("**Windows**: a line for each prompt, such as `0-2.4: a red circle bounces`.", SIZE),
        (DEV23, GEMMA3, DISTILLED23),
    ),
    "text_to_audio": Note(
        "Audio alone",
        "Speech, effects or music from text, without video: a fraction of the time.",
        ("**Prompt**: what is heard.", "**Length**: seconds."),
        ONE_STAGE,
    ),
    "train_lora": Note(
        "Train a LoRA",
        "Clips and captions become a LoRA, which makes the clip at the end. The node shows a preview beside "
        "the clip of the untrained model. Stop it whenever you like: the next run continues.",
        (
            "**Train LoRA**: dataset, the folder with your clips (clip.mp4, clip.txt) in ComfyUI's input "
            "folder.",
            "**Train LoRA**: name, trigger and buckets (width x height x frames of your clips); preset, the "
            "memory of your GPU.",
            "**Prompt** and preview_prompt: a sentence with the trigger word.",
        ),
        ONE_STAGE,
    ),
    "ltx23_text_to_video": Note(
        "LTX-2.3: text to video with audio",
        "The distilled LoRA at strength 0.5 in both stages: 8 steps at half size, 3 at full size.",
        (PROMPT, SIZE),
        released=True,
    ),
    "ltx23_image_to_video": Note(
        "LTX-2.3: image to video with audio",
        "Your image is the first frame. The distilled LoRA at strength 0.5 in both stages: 8 steps at half "
        "size, 3 at full size.",
        (IMAGE, PROMPT, SHAPED, STRENGTH),
        released=True,
    ),
    "ltx25_text_to_video": Note(
        "LTX-2.5: text to video with audio",
        "The distilled model: 8 ancestral steps at half size, 3 at full size.",
        (PROMPT, SIZE),
        FILES25,
        released=True,
    ),
    "ltx25_image_to_video": Note(
        "LTX-2.5: image to video with audio",
        "Your image is the first frame. 8 ancestral steps at half size, 3 at full size.",
        (IMAGE, PROMPT, SHAPED, STRENGTH),
        FILES25,
        released=True,
    ),
    "ltx25_first_last_frame": Note(
        "LTX-2.5: from a first to a last frame",
        "Two images are the ends of the clip in both stages: 8 ancestral steps at half size, 3 at full size.",
        ("**First frame** and **Last frame**: images of the same shape.", PROMPT, SHAPED),
        FILES25,
        released=True,
    ),
    "ltx25_dfr": Note(
        "LTX-2.5: DFR, 48 frames a second",
        "The DFR pipeline: 8 steps at half size and 3 at full size, with keyframes that the model generates; "
        "then the frame rate is doubled from 24 to 48 and the clip sampled again in tiles, 4 steps each. The "
        "node's report lists all stages.",
        (PROMPT, SIZE, "**DFR: all stages**: 0 temporal_rounds stay at 24 frames a second, 2 make 96."),
        (*FILES25, TEMPORAL23),
        released=True,
    ),
    "ltxv_text_to_video": Note(
        "LTX-Video: text to video, no audio",
        "The distilled 2B for small cards: 8 steps without guidance. Video alone: **with_audio** is off.",
        (SEEN, SIZE),
        LTXV_FILES,
        released=True,
    ),
    "ltxv_image_to_video": Note(
        "LTX-Video: image to video, no audio",
        "Your image is the first frame. The distilled 2B: 8 steps without guidance.",
        (IMAGE, SEEN, SHAPED),
        LTXV_FILES,
        released=True,
    ),
    "ltxv_two_stages": Note(
        "LTX-Video: two passes, no audio",
        "The recipe of 0.9.8: 7 steps at half size, the latent upscaler, 3 steps at full size.",
        (SEEN, SIZE),
        (*LTXV_FILES, UPSCALER_LTXV),
        released=True,
    ),
    "ltxv_keyframes": Note(
        "LTX-Video: from a first to a last frame, no audio",
        "An image is the first frame, another one the last. The distilled 2B: 8 steps without guidance.",
        ("**First frame** and **Last frame**: images of the same shape.", SEEN, SHAPED),
        LTXV_FILES,
        released=True,
    ),
    "ltxv_segment_edit": Note(
        "LTX-Video: seconds of a clip anew, no audio",
        "Seconds of a clip are regenerated, the rest is preserved. 8 steps without guidance.",
        ("**Video file**: your clip.", "**What to regenerate**: seconds such as `1-2.5`.", SEEN),
        LTXV_FILES,
        released=True,
    ),
    "ltxv_video_to_video": Note(
        "LTX-Video: video to video, no audio",
        "A clip is noised to 0.909 and sampled again by another prompt: 3 steps without guidance.",
        ("**Video file**: your clip.", SEEN),
        LTXV_FILES,
        released=True,
    ),
}
