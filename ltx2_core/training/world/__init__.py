"""A synthetic world of moving shapes with audio: rendered from seeds, measured from frames and samples."""

from .captions import caption, plain_caption, vocabulary
from .clip import Clip, Truth, clip_from_seed, render_clip, truth_of
from .edges import edge_frames, edge_iou, edge_map, edge_sharpness
from .lengths import LENGTHS_S, UNSAID_S, length_words, with_length
from .measure import Measured, measure
from .measured_audio import MeasuredAudio, measure_audio
from .measured_video import OUTLINES, MeasuredBody, MeasuredVideo, Outline, measure_video
from .palette import COLOURS, KINDS, MOTIONS, PITCH_HZ, Colour, Kind, Motion, Sound, confusable
from .render import render_frames
from .scene import FPS, Body, Scene, sample_scene
from .score import Agreement, agreement, contact_onset_distance, event_distance, event_f1, semitones
from .waveform import render_audio

__all__ = [
    "COLOURS",
    "FPS",
    "KINDS",
    "LENGTHS_S",
    "MOTIONS",
    "OUTLINES",
    "PITCH_HZ",
    "UNSAID_S",
    "Agreement",
    "Body",
    "Clip",
    "Colour",
    "Kind",
    "Measured",
    "MeasuredAudio",
    "MeasuredBody",
    "MeasuredVideo",
    "Motion",
    "Outline",
    "Scene",
    "Sound",
    "Truth",
    "agreement",
    "caption",
    "clip_from_seed",
    "confusable",
    "contact_onset_distance",
    "edge_frames",
    "edge_iou",
    "edge_map",
    "edge_sharpness",
    "event_distance",
    "event_f1",
    "length_words",
    "measure",
    "measure_audio",
    "measure_video",
    "plain_caption",
    "render_audio",
    "render_clip",
    "render_frames",
    "sample_scene",
    "semitones",
    "truth_of",
    "vocabulary",
    "with_length",
]
