"""What can be wrong with a training set: how bad it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """``error``: whether training on such a row fails or teaches something wrong; else it is only worth a look."""

    error: bool
    remedy: str


_WRITE_AGAIN = "write the file again, one JSON object a line, in UTF-8"
_STAGES = "the answer has to hold each stage once, closed, in order: write it again (structdecode annotate) or drop it"

KINDS: dict[str, Kind] = {
    "bad-json": Kind(True, _WRITE_AGAIN),
    "not-an-object": Kind(True, _WRITE_AGAIN),
    "not-a-number": Kind(True, "JSON has no NaN and no Infinity: write a finite number or null"),
    "repeated-key": Kind(True, "remove one of the two: readers differ in which they take"),
    "line-too-long": Kind(True, "a picture inlined? Store it as a file and name its path"),
    "not-utf8": Kind(True, "save the file as UTF-8"),
    "nul-byte": Kind(True, "remove the NUL characters: tokenizers differ in what they make of them"),
    "byte-order-mark": Kind(True, "files were joined with their byte-order marks: remove them"),
    "missing-field": Kind(True, "a row needs id and conversations, a turn needs from and value"),
    "wrong-type": Kind(True, "id is a text or number, image a path, conversations a list of {from, value}"),
    "empty-field": Kind(True, "fill it in or drop the row"),
    "missing-turn": Kind(True, "turns come in pairs, human and gpt: drop the question that has no answer"),
    "turn-order": Kind(
        True, "turns alternate, human first and gpt last; a system turn goes into the schema's instruction"
    ),
    "missing-tag": Kind(True, _STAGES),
    "repeated-tag": Kind(True, _STAGES),
    "unclosed-tag": Kind(True, _STAGES),
    "tag-order": Kind(True, _STAGES),
    "text-outside-tags": Kind(True, "the model would learn to write outside of its stages: move the text into a stage"),
    "empty-stage": Kind(True, "the model would learn to skip the stage: fill it in or drop the row"),
    "image-missing": Kind(True, "correct the path, or give the folder that paths are relative to with --images"),
    "mark-without-image": Kind(True, "name the picture under image (or images), or take the <image> mark out"),
    "image-without-mark": Kind(True, "give each picture its <image> mark in the question, or take all marks out"),
    "two-image-fields": Kind(True, "name the pictures under image or under images, not under both"),
    "no-image-folder": Kind(True, "give the folder with --images"),
    "path-escape": Kind(True, "the path leaves the folder of pictures: move the picture, or give --images"),
    "bad-path": Kind(True, "no file can have this name: correct it"),
    "remote-image": Kind(True, "pictures are not fetched from the network: download them"),
    "empty-image": Kind(True, "the file has zero bytes: copy it again"),
    "not-an-image": Kind(True, "Pillow cannot read it (an error page saved as .jpg?): fetch or convert it again"),
    "broken-image": Kind(True, "its pixels cannot be decoded, it was cut off or damaged: copy it again"),
    "image-too-large": Kind(True, "scale it down"),
    "bad-data-url": Kind(True, "only data:image/...;base64,... is read; a file is better"),
    "bad-base64": Kind(True, "encode the picture again; a file is better"),
    "duplicate-id": Kind(True, "give each row an id of its own: annotation and resuming go by it"),
    "too-long": Kind(True, "raise --max-length if the model and memory allow, else shorten or drop; it is never cut"),
    "image-token-in-text": Kind(True, "the model would look for a picture that is not there: take the mark out"),
    "image-refused": Kind(True, "the model's processor takes no picture of this shape: crop or pad it"),
    "rewritten-text": Kind(True, "the model's chat template changes the text (a </think> in it?): take that out"),
    "duplicate-content": Kind(False, "same picture, questions and answers as an earlier row: --fix keeps the first"),
    "several-images": Kind(False, "LLaVA-CoT has one picture a row: see that the model was trained for several"),
    "image-mark": Kind(
        False, "<image> belongs into the first question, where the pictures are put; marks are taken out"
    ),
    "special-token-in-text": Kind(False, "the tokenizer reads it as a control token: take it out unless it is meant"),
}
"""By the names that readers of rows, stages and pictures use, and those that `check` adds."""

OTHER = Kind(True, "see the message")


def kind(problem: str) -> Kind:
    return KINDS.get(problem, OTHER)
