"""Reads and writes image, video and audio files, through PyAV and Pillow.

Images and clips that are read from files are RGB with values in [0, 1]; the networks work in [-1, 1], and
``to_signed`` converts.
"""

from .atomic import check_output
from .audio_in import read_audio
from .audio_out import write_audio, write_wav
from .compress import compress_image
from .destination import Destination
from .encoding import Encoding
from .images import fit_image, load_image, to_bytes, to_signed
from .tags import read_metadata
from .video_in import VideoClip, read_video
from .writer import VideoWriter, frame_rate

__all__ = [
    "Destination",
    "Encoding",
    "VideoClip",
    "VideoWriter",
    "check_output",
    "compress_image",
    "fit_image",
    "frame_rate",
    "load_image",
    "read_audio",
    "read_metadata",
    "read_video",
    "to_bytes",
    "to_signed",
    "write_audio",
    "write_wav",
]
