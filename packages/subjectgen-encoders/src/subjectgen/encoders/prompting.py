"""Prompt and references as one token sequence, knowing which tokens are the template's.

The template is rendered around a placeholder, so that the prompt's place in the text, and with it its tokens, is known
from the tokenizer's own offsets: no count of template tokens is written anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from subjectgen.core import CheckpointError, InputError, Modality, valid_text

Template: TypeAlias = Literal["chat", "plain"]

_PLACEHOLDER = "\ue000"
"""A private-use character that stands for the prompt while the template is rendered."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One sequence. All lists have its length."""

    ids: list[int] = field(default_factory=list)
    modality: list[int] = field(default_factory=list)
    reference: list[int] = field(default_factory=list)
    keep: list[bool] = field(default_factory=list)

    def append(self, ids: Sequence[int], modality: Modality, *, reference: int = -1, keep: bool) -> None:
        """Add tokens of one kind."""
        self.ids.extend(ids)
        self.modality.extend([int(modality)] * len(ids))
        self.reference.extend([reference] * len(ids))
        self.keep.extend([keep] * len(ids))


class Prompting:
    """Writes sequences for one tokenizer and template."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        image_token_id: int,
        image_markers: tuple[int, int],
        template: Template = "chat",
        chat_template: str | None = None,
        system: str | None = None,
        number_references: bool = False,
        keep_template_tokens: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self.image_markers = image_markers
        self.template = template
        self.chat_template = chat_template or tokenizer.chat_template
        self.system = system
        self.number_references = number_references
        self.keep_template_tokens = keep_template_tokens
        self.image_token = tokenizer.convert_ids_to_tokens(image_token_id)
        self._control = {
            *tokenizer.all_special_tokens,
            *tokenizer.convert_ids_to_tokens([image_token_id, *image_markers]),
        }
        self._check()

    def row(self, prompt: str, image_tokens: Sequence[int]) -> TokenRow:
        """Tokens of a prompt after its references; reference k takes ``image_tokens[k]`` tokens.

        Raises:
            InputError: A prompt that holds a control token, or that is no valid Unicode.
        """
        prompt = valid_text(prompt, "prompt")
        used = sorted(token for token in self._control if token in prompt)
        if used:
            raise InputError(f"the prompt contains the tokenizer's control token {used[0]!r}; write it another way")
        before, after = self._surroundings(len(image_tokens))
        encoded = self.tokenizer(before + prompt + after, add_special_tokens=False, return_offsets_mapping=True)
        start, end = len(before), len(before) + len(prompt)
        return self._expand(
            encoded["input_ids"], [_overlaps(o, start, end) for o in encoded["offset_mapping"]], image_tokens
        )

    def _expand(self, ids: Sequence[int], in_prompt: Sequence[bool], image_tokens: Sequence[int]) -> TokenRow:
        """Replace the one token per image by as many as the image has, between its markers."""
        row, index = TokenRow(), 0
        opening, closing = self.image_markers
        for position, (token, own) in enumerate(zip(ids, in_prompt, strict=True)):
            if token != self.image_token_id:
                row.append([token], Modality.TEXT, keep=own or self.keep_template_tokens)
                continue
            marked = position > 0 and ids[position - 1] == opening
            markers: tuple[list[int], list[int]] = ([], []) if marked else ([opening], [closing])
            row.append(markers[0], Modality.TEXT, keep=self.keep_template_tokens)
            row.append([token] * image_tokens[index], Modality.IMAGE, reference=index, keep=True)
            row.append(markers[1], Modality.TEXT, keep=self.keep_template_tokens)
            index += 1
        return row

    def _surroundings(self, images: int) -> tuple[str, str]:
        """Text of the template before and after the prompt."""
        text = self._chat(images) if self.template == "chat" else self._plain(images)
        before, found, after = text.partition(_PLACEHOLDER)
        if not found or text.count(self.image_token) != images:
            raise CheckpointError(
                f"the chat template writes {text.count(self.image_token)} image tokens {self.image_token!r} for "
                f"{images} images{'' if found else ' and leaves the prompt out'}; set template: plain"
            )
        return before, after

    def _chat(self, images: int) -> str:
        content: list[dict[str, str]] = []
        for index in range(images):
            if self.number_references and images > 1:
                content.append({"type": "text", "text": f"Picture {index + 1}: "})
            content.append({"type": "image"})
        content.append({"type": "text", "text": _PLACEHOLDER})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system}]})
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, tokenize=False, add_generation_prompt=True
        )

    def _plain(self, images: int) -> str:
        numbered = self.number_references and images > 1
        pictures = (f"Picture {k + 1}: " if numbered else "" for k in range(images))
        system = "" if self.system is None else f"{self.system}\n"
        return system + "".join(f"{picture}{self.image_token}\n" for picture in pictures) + _PLACEHOLDER

    def _check(self) -> None:
        if self.image_token is None or self.tokenizer(self.image_token, add_special_tokens=False)["input_ids"] != [
            self.image_token_id
        ]:
            raise CheckpointError(
                f"the tokenizer does not know the model's image token (image_token_id {self.image_token_id})"
            )
        if self.template == "chat" and not self.chat_template:
            raise CheckpointError("the checkpoint has no chat template; set template: plain")
        self._surroundings(1)


def _overlaps(offset: tuple[int, int], start: int, end: int) -> bool:
    """Whether a token lies in text[start:end]; an empty token belongs where it stands."""
    return offset[0] < end and (offset[1] > start or offset[0] == offset[1] >= start)
