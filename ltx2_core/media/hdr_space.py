"""Log curves and colour primaries of HDR clips: linear light to codes in [0, 1], which the video VAE takes.

Light is linear and has no upper limit; 1 is diffuse white. Everything is computed in float32.
Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from ..formats import HDR_NAMES

Primaries: TypeAlias = Literal["rec709", "acescg"]

CHROMATICITIES: Final[dict[Primaries, tuple[float, ...]]] = {
    "rec709": (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    "acescg": (0.713, 0.293, 0.165, 0.830, 0.128, 0.044, 0.32168, 0.33767),
}
"""Name of a set of primaries -> x and y of red, green, blue and white, as EXR files state them."""

_ACESCG_TO_REC709 = torch.tensor(
    [[1.70505, -0.62179, -0.08326], [-0.13026, 1.1408, -0.01055], [-0.024, -0.12897, 1.15297]]
)
# Inverted in float64, so that light goes there and back without a loss.
_REC709_TO_ACESCG = torch.linalg.inv(_ACESCG_TO_REC709.double()).float()
_REC709_TO_REC2020 = torch.tensor(
    [
        [0.62740389, 0.32928304, 0.04331307],
        [0.06909729, 0.9195404, 0.01136232],
        [0.01639144, 0.08801331, 0.89559525],
    ]
)
"""Matrix (3, 3) for linear RGB, as BT.2087 states it."""
_ACESCG_TO_REC2020 = torch.tensor(
    [
        [1.02582475, -0.02005319, -0.00577156],
        [-0.00223437, 1.0045865, -0.00235213],
        [-0.00501335, -0.02529007, 1.03030342],
    ]
)
"""Matrix (3, 3) for linear RGB.

It adapts the white of ACES (D60) to that of BT.2020 (D65) by the Bradford matrix.
"""

# ARRI LogC3 at exposure index 800: code = c log10(a x + b) + d, below the cut e x + f.
_LOGC3_A, _LOGC3_B, _LOGC3_C, _LOGC3_D = 5.555556, 0.052272, 0.247190, 0.385537
_LOGC3_E, _LOGC3_F, _LOGC3_CUT = 5.367655, 0.092809, 0.010591
# ACEScct of AMPAS S-2016-001, on the primaries of ACEScg.
_CCT_SLOPE, _CCT_OFFSET = 10.5402377416545, 0.0729055341958355
_CCT_CUT, _CCT_CODE_CUT = 0.0078125, 0.155251141552511


def logc3_encode(light: Tensor) -> Tensor:
    """Linear light -> LogC3 codes in [0, 1]; light below 0 counts as 0, and light from 55.08 on is 1."""
    x = light.float().clamp(min=0)
    log = _LOGC3_C * torch.log10(_LOGC3_A * x + _LOGC3_B) + _LOGC3_D
    return torch.where(x >= _LOGC3_CUT, log, _LOGC3_E * x + _LOGC3_F).clamp(0, 1)


def logc3_decode(code: Tensor) -> Tensor:
    """LogC3 codes -> linear light; codes outside [0, 1] are clipped. The lowest codes are light below 0."""
    code = code.float().clamp(0, 1)
    light = (torch.pow(10.0, (code - _LOGC3_D) / _LOGC3_C) - _LOGC3_B) / _LOGC3_A
    return torch.where(code >= _LOGC3_E * _LOGC3_CUT + _LOGC3_F, light, (code - _LOGC3_F) / _LOGC3_E)


def acescct_encode(light: Tensor) -> Tensor:
    """Linear light -> ACEScct codes in [0, 1]; light below 0 counts as 0, and light from 222.8 on is 1."""
    x = light.float().clamp(min=0)
    # The clamp only makes the branch that is not chosen finite.
    log = (torch.log2(x.clamp(min=1e-12)) + 9.72) / 17.52
    return torch.where(x > _CCT_CUT, log, _CCT_SLOPE * x + _CCT_OFFSET).clamp(0, 1)


def acescct_decode(code: Tensor) -> Tensor:
    """ACEScct codes -> linear light; codes outside [0, 1] are clipped. The lowest codes are light below 0."""
    code = code.float().clamp(0, 1)
    return torch.where(
        code > _CCT_CODE_CUT, torch.pow(2.0, code * 17.52 - 9.72), (code - _CCT_OFFSET) / _CCT_SLOPE
    )


def change_primaries(light: Tensor, before: Primaries, after: Primaries) -> Tensor:
    """Convert linear light (..., 3, H, W) from the primaries ``before`` to the primaries ``after``.

    Colours outside the new primaries have values below 0.
    """
    if before == after:
        return light
    return _mixed(light, _ACESCG_TO_REC709 if before == "acescg" else _REC709_TO_ACESCG)


def to_rec2020(light: Tensor, primaries: Primaries) -> Tensor:
    """Linear light (..., 3, H, W) of ``primaries`` -> linear light of BT.2020."""
    return _mixed(light, _ACESCG_TO_REC2020 if primaries == "acescg" else _REC709_TO_REC2020)


def _mixed(light: Tensor, matrix: Tensor) -> Tensor:
    light = light.float()
    return torch.einsum("...chw,dc->...dhw", light, matrix.to(light.device))


@dataclass(frozen=True, kw_only=True)
class HdrSpace:
    """A colour space of HDR images: that of the images that a run reads, and of the clip that it returns.

    Inside of a run every HDR clip is ACEScct codes (logarithms of light) in [0, 1] on the primaries of
    ACEScg, as in the official pipelines. ``is_log`` says that images of this space are ACEScct codes already;
    otherwise they are linear light. ``primaries`` and ``tag`` (the attribute ``colorSpace``) are what an EXR
    file of this space states.
    """

    name: str
    primaries: Primaries
    tag: str
    is_log: bool = False

    def to_codes(self, pixels: Tensor) -> Tensor:
        """Convert pixels (..., 3, H, W) of this space to ACEScct codes in [0, 1].

        Light that is too dark or too bright for these codes is clipped.
        """
        if self.is_log:
            return pixels.float().clamp(0, 1)
        return acescct_encode(change_primaries(pixels, self.primaries, "acescg"))

    def of_codes(self, codes: Tensor) -> Tensor:
        """Convert ACEScct codes (..., 3, H, W) to float32 pixels of this space.

        Pixels are linear light, of which values below 0 become 0; or, if ``is_log``, codes clipped to [0, 1].
        """
        if self.is_log:
            return codes.float().clamp(0, 1)
        light = change_primaries(acescct_decode(codes), "acescg", self.primaries)
        return light.clamp(min=0)


HDR_SPACES: Final[dict[str, HdrSpace]] = {
    one.name: one
    for one in (
        HdrSpace(name="srgb-linear", primaries="rec709", tag="sRGB"),
        HdrSpace(name="acescg", primaries="acescg", tag="ACEScg"),
        HdrSpace(name="acescct", primaries="acescg", tag="ACEScct", is_log=True),
    )
}
"""Name of a colour space that can be chosen -> the space."""
assert tuple(HDR_SPACES) == HDR_NAMES


HdrCurve: TypeAlias = Literal["acescct", "logc3"]
"""Which log codes a model was trained with: ACEScct by LTX-2.5 itself, LogC3 by the HDR IC-LoRA."""


def light_of(codes: Tensor, curve: HdrCurve, space: HdrSpace) -> Tensor:
    """Convert log codes (..., 3, H, W) in [0, 1] of ``curve`` to float32 pixels of ``space``.

    Codes of ACEScct are on the primaries of ACEScg, those of LogC3 on Rec. 709. Codes outside [0, 1] are
    clipped; light below 0 becomes 0.
    """
    if curve == "acescct":
        return space.of_codes(codes)
    # Codes below black are negative light, which other primaries would mix into all channels.
    light = change_primaries(logc3_decode(codes).clamp(min=0), "rec709", space.primaries)
    return acescct_encode(light) if space.is_log else light.clamp(min=0)


def codes_to_rec709(codes: Tensor) -> Tensor:
    """Convert ACEScct codes (..., 3, H, W), as a run computes them, to linear light of BT.709, 0 or more."""
    return HDR_SPACES["srgb-linear"].of_codes(codes)
