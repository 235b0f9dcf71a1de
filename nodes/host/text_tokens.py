"""The tokenizer with ComfyUI's interface: lists of (token, weight) under the name of the text encoder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd1_clip
import torch
from torch import Tensor

from ...ltx2_core.text import Tokenizer, read_tokenizer
from .notices import say

NAMES = {3: "gemma3_12b", 4: "gemma4"}
"""The host's names of the text encoders of LTX-2, by the generation of Gemma."""

Token = int | Tensor
"""A token id, or an embedding (D,) of a file in models/embeddings."""

Tokens = dict[str, list[list[tuple[Token, float]]]]

TEMPLATES = {
    "gemma3_12b": "<start_of_turn>system\nYou are a helpful assistant.<end_of_turn>\n<start_of_turn>user\n{}"
    "<end_of_turn>\n<start_of_turn>model\n",
    "gemma4": "<|turn>user\n{}<turn|>\n<|turn>model\n<|channel>thought\n<channel|>",
}
"""How the host turns a request into a conversation."""

CHAT = ("<start_of_turn>", "<|turn>")
EMBEDDING = re.compile(r"(?:^|(?<=[ \n]))embedding:(\S+)")


class HostTokenizer:
    """Tokenizes prompts to be encoded, and requests to Gemma as a language model.

    ``path`` is the text encoder's file or folder, ``name`` ComfyUI's name of the encoder, ``width`` that of
    its embeddings, and ``folders`` are those with textual-inversion embeddings. The object has an attribute
    whose name is the value of ``name``; other packs count the tokens of a prompt through it.
    """

    def __init__(
        self, tokenizer: Tokenizer, path: Path, name: str, width: int, folders: Sequence[str] | str | None
    ) -> None:
        self.plain, self.path, self.width, self.folders = tokenizer, path, width, folders
        # Nodes of the host choose by these what they write around a request.
        self.clip_name = self.clip = name
        setattr(self, name, _Inner(RawTokenizer(tokenizer)))

    def tokenize_with_weights(
        self,
        text: str,
        return_word_ids: bool = False,
        *,
        skip_template: bool = True,
        llama_template: str | None = None,
        image: Tensor | None = None,
        video: Tensor | None = None,
        audio: Any = None,
        **options: Any,
    ) -> Tokens:
        """Tokenize a text to ComfyUI's lists of (token, weight); every weight is 1.

        Without ``skip_template``, the text is a request to the language model and is put into
        ``llama_template``, in place of "{}"; None is the template of the text encoder. Raises ValueError for
        images, video and audio, which this text-only Gemma cannot read. ``return_word_ids`` is not read.
        """
        given = {"image": image, "video": video, "audio": audio}
        if connected := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"{' and '.join(connected)} cannot be described: LTX-2 Load Text Encoder loads only the text "
                f"part of Gemma. Disconnect {' and '.join(connected)}, or use ComfyUI's Load LTXV Audio Text "
                "Encoder for this node"
            )
        if not skip_template and not text.startswith(CHAT):
            text = (llama_template or TEMPLATES[self.clip_name]).format(text)
        raw = RawTokenizer(self.plain)
        row: list[Token] = [self.plain.bos_id]
        for part in self._parts(text):
            row += raw.ids(part) if isinstance(part, str) else list(part)
        return {self.clip_name: [[(token, 1.0) for token in row]]}

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Convert generated tokens to text; ``skip_special_tokens`` leaves out tokens such as end of turn."""
        assert self.plain.decode is not None
        marks = {*self.plain.special.values()} if skip_special_tokens else set()
        return self.plain.decode([token for token in token_ids if token not in marks])

    def state_dict(self) -> dict[str, Tensor]:
        """The tokenizer's file as a tensor of bytes, under the name by which text encoder files store it."""
        _, kind, content = read_tokenizer(self.path)
        return {kind: torch.frombuffer(bytearray(content), dtype=torch.uint8)}

    def _parts(self, text: str) -> Iterable[str | Tensor]:
        """Split a text at the textual-inversion embeddings that it names, as in "a red embedding:name ball".

        Yields texts, and embeddings (vectors, width). A name without a fitting file is left out with a
        warning.
        """
        done = 0
        for match in EMBEDDING.finditer(text):
            # Punctuation that follows a name in a prompt is part of the text.
            name = match[1].rstrip(",.;")
            yield text[done : match.start()]
            done = match.start() + len("embedding:") + len(name)
            found = comfy.sd1_clip.load_embed(name, self.folders, self.width, self.clip_name)
            if found is None:
                say(f"embedding:{name} is not in models/embeddings for this text encoder and is left out")
            elif found.shape[-1] != self.width:
                say(f"embedding:{name} has width {found.shape[-1]}, Gemma {self.width}: it is left out")
            else:
                yield found.reshape(-1, self.width)
        yield text[done:]


class RawTokenizer:
    """The tokenizer that other packs call to count the tokens of a prompt; it adds a BOS token and no EOS."""

    add_bos, add_eos = True, False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._marks = re.compile("|".join(map(re.escape, tokenizer.special)) or r"(?!)")

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [self.tokenizer.bos_id, *self.ids(text)]}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without BOS.

        If the text begins with the mark of a turn, "<start_of_turn>" or "<|turn>", each special token that
        is written in it becomes one id. If not, the text is stripped and encoded whole.
        """
        if not text.startswith(CHAT):
            return self.tokenizer.encode(text.strip())
        ids: list[int] = []
        done = 0
        for mark in self._marks.finditer(text):
            ids += [*self.tokenizer.encode(text[done : mark.start()]), self.tokenizer.special[mark[0]]]
            done = mark.end()
        return [*ids, *self.tokenizer.encode(text[done:])]

    def decode(self, token_ids: list[int], **options: Any) -> str:
        assert self.tokenizer.decode is not None
        return self.tokenizer.decode(token_ids)


@dataclass(frozen=True)
class _Inner:
    tokenizer: RawTokenizer
