"""Plain titles of the nodes of shipped workflows."""

from __future__ import annotations

TITLES = {
    "LTX2AVLoadAll": "Model files",
    "LTX2AVClipPlan": "Size and length",
    "LTX2AVPrompt": "Prompt",
    "LTX2AVLoadLora": "LoRA",
    "LTX2AVSampleStage": "Sampling",
    "LTX2AVSampleDFR": "DFR: all stages",
    "LTX2AVLoadUpscaler": "Temporal upscaler",
    "LTX2AVLatentUpscale": "Double the size",
    "LTX2AVNextStage": "To full size, with images again",
    "LTX2AVImgToVideoInplace": "Image as first frame",
    "LTX2AVAddGuide": "Guide",
    "LTX2AVCropGuides": "Remove guides",
    "LTX2AVDecodeToVideo": "Decode to a video",
    "LTX2AVFinishEdit": "Join to the clip",
    "LTX2AVExtend": "What to add",
    "LTX2AVRetake": "What to regenerate",
    "LTX2AVTimeMask": "What to regenerate",
    "LTX2AVSound": "Clip that gets audio",
    "LTX2AVDub": "Clip that gets new speech",
    "LTX2AVSeparateLatent": "Video without audio",
    "LTX2AVDecodeHDR": "Decode HDR",
    "LTX2AVSaveHDR": "Save HDR",
    "LTX2AVSetAudio": "Video follows this audio",
    "LTX2AVReferenceAudio": "Voice of the clip",
    "LTX2AVTextToAudio": "Length",
    "LTX2AVLongVideo": "Windows",
    "LTX2AVDecodeLongVideo": "Decode to a video",
    "LTX2AVDecodeAudio": "Decode the audio",
    "LTX2AVDistilledSigmas": "Schedule",
    "LTX2AVCanny": "Find the edges",
    "LTX2AVTrainLora": "Train LoRA",
    "LTX2AVConcatLatent": "Video and audio together",
    "LoadImage": "First image",
    "LoadAudio": "Audio",
    "LoadVideo": "Video file",
    "GetVideoComponents": "Its frames, audio and frame rate",
    "VAEEncode": "Encode the frames",
    "LTXVAudioVAEEncode": "Encode the audio",
    "SaveVideo": "Save the video",
    "SaveAudio": "Save the audio",
}
"""Plain title of a node, by its kind."""

TITLES_OF = {
    "start": "First frame",
    "begin": "First frame",
    "end": "Last frame",
    "between": "Keyframe",
    "voice": "Voice to imitate",
    "first": "Sampling, first stage",
    "second": "Sampling, second stage",
    "distilled": "LoRA: distilled",
    "control": "LoRA: control",
    "dubit": "LoRA: Dub-It",
    "hdr": "LoRA: HDR",
    "again": "Image as first frame, again",
}
"""Plain title of a node, by its name in the tables, where its kind says too little."""


def title(name: str, kind: str, stages: int) -> str:
    """Title of a node called ``name``; with one stage nothing is called the first of two."""
    if name == "first" and stages == 1:
        return TITLES[kind]
    return TITLES_OF.get(name, TITLES[kind])
