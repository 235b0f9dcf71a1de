"""A synthetic world of sounding shapes: made from a seed, and measured from its pixels and samples alone."""

from .captions import caption, plain_caption, vocabulary
from .clip import Clip, Truth, clip_of, make_clip, truth_of
from .edges import edge_iou, edge_map, edge_sharpness
from .listen import Heard, listen
from .look import Look, SeenBody, look
from .measure import Measured, measure
from .palette import COLOURS, KINDS, MOTIONS, PITCH_HZ, Colour, Kind, Motion, Sound, confusable
from .render import render_frames
from .scene import FPS, Body, Scene, sample_scene
from .score import Agreement, agreement, contact_onset_distance, event_distance, event_f1, semitones
from .sound import render_audio

__all__ = [
    "COLOURS",
    "FPS",
    "KINDS",
    "MOTIONS",
    "PITCH_HZ",
    "Agreement",
    "Body",
    "Clip",
    "Colour",
    "Heard",
    "Kind",
    "Look",
    "Measured",
    "Motion",
    "Scene",
    "SeenBody",
    "Sound",
    "Truth",
    "agreement",
    "caption",
    "clip_of",
    "confusable",
    "contact_onset_distance",
    "edge_iou",
    "edge_map",
    "edge_sharpness",
    "event_distance",
    "event_f1",
    "listen",
    "look",
    "make_clip",
    "measure",
    "plain_caption",
    "render_audio",
    "render_frames",
    "sample_scene",
    "semitones",
    "truth_of",
    "vocabulary",
]
