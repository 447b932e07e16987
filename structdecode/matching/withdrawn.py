"""What a text says and does not stand by: earlier guesses, what others say, an answer that its end takes back."""

from __future__ import annotations

import re

_TAIL = 80
"""Characters at the end of a text in which it may take back its answer."""

_GUESSED = r"thought|assumed|believed|expected|supposed|figured"
_ANSWERED = rf"{_GUESSED}|guessed|said|answered|counted|saw|had|got|chose|picked|selected|wrote|put|estimated|went for|was going"
_NO_LONGER = r"first|initially|originally|at first|once|previously|earlier|almost|nearly"
_SUPERSEDED = re.compile(
    rf"(?<!\bis )(?<!\bwas )(?<!\bwhat )(?:\b(?:i|we)\s+(?:had\s+)?(?:(?:{_NO_LONGER})\s+)+(?:had\s+)?(?:{_ANSWERED})\b"
    rf"|\b(?:{_NO_LONGER}),?\s+(?:i|we)\s+(?:had\s+)?(?:{_ANSWERED})\b|\b(?:i|we)\s+(?:had\s+)?(?:{_GUESSED})(?!\s+(?:about|of|through|hard|it\s+(?:over|through))\b)\b"
    r"|\b(?:i|we)\s+(?:used to|would have|was (?:going|about|tempted) to|were going to)\s+\w+|\bused to be\b"
    r"|\b(?:my|our)\s+(?:very\s+)?(?:first|initial|original|earlier|previous|old)\s+\w+|\bthe\s+(?:first|initial|original|earlier|previous|old)\s+(?:guess|answer|impression)"
    r"|\bat (?:a\s+)?first (?:glance|sight|look)\b"
    r"|\b(?:(?:some|many|most|other)(?:\s+people)?|others|people|they|everyone|everybody|someone|somebody|one|you)\s+(?:(?:would|might|may|will|could)\s+)?"
    r"(?:says?|said|thinks?|guess|believes?|claims?|argues?|answers?|expect(?:ed)?|told (?:me|us)|told)\b|\bwe were told\b"
    r"|\b(?:an?|the)\s+(?:common|typical|frequent|naive|tempting|usual)\s+(?:mistake|error|trap|guess|answer|choice)|\bthe\s+(?:decoy|trap|distractor)\b"
    r"|^\W*(?:the\s+)?(?:wrong|incorrect|false|excluded|eliminated)(?:\s+(?:answers?|options?|choices?|ones?))?\s*:)"
    r"(?:[^,;!?\n.]|[.,](?=\d))*?(?=[,;!?\n]|\.(?!\d)|\bbut\b|\bthen\b|$)",
    re.IGNORECASE,
)
EARLIER_LEAD = re.compile(
    r"\b(?:an?|my|the|your|his|her|their|our)\s+(?:very\s+)?(?:first|initial|original|earlier|previous|old|naive|tempting|typical)\s*$",
    re.IGNORECASE,
)
"""What stands before "answer is" where it is not the answer that the text gives now."""

_IS_WRONG = (
    r"(?:that|this|it)(?:'s|\s+is|\s+was|\s+would be)\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|untrue|inaccurate|an?\s+(?:lie|joke|mistake|error)"
    r"|not\s+(?:true|correct|right|accurate|so))|that isn't (?:true|right|correct)|i (?:really\s+)?doubt (?:it|that)|(?:that|this|it)\s+(?:can't|cannot)\s+be(?:\s+(?:true|right|correct|it))?"
)
_TAKES_BACK = re.compile(
    r"(?:(?<=[.!;,…\n])(?<!\n[A-Za-z][.)])|\s-)\s*(?:(?:but|hmm+|oh|well|sorry|or|actually|wait)\b[\s,.]*)*"
    r"(?:(?:(?:i'm|i am)\s+)?(?:just\s+)?(?:kidding|joking)"
    r"|never ?mind|(?:scrap|scratch|strike|forget|ignore|disregard)\s+(?:that|this|it)|i\s+(?:lied|was wrong|made a mistake|take (?:it|that) back)"
    rf"|(?P<denial>no(?:,? no)?|nope|nah|wrong|incorrect|false|not(?:\s+(?:really|true|so|quite|at all|correct|right))?|{_IS_WRONG}))[\s.!\"')]*$",
    re.IGNORECASE,
)
RETRACTION = re.compile(
    r"\b(?:wait|scratch that|on second thought|correction|i made a mistake|i was wrong|let me re\w+|actually|i mean|or rather|make (?:it|that)(?=\s+\S+\W*$))\b[,.:!]*"
    r"|(?:(?<=[.!]) |\n[ \t]?|[,;-] )(?:but|however,|no,|nope,|sorry,?|hmm+,?|oh,?)\s+(?:(?:it|that|this|the answer|there)(?:'s|\s+is|\s+are)\s+)?"
    r"(?!not\b|no\b|i\b)(?=[^\s.!?]+(?:\s[^\s.!?]+)?[.!]?\s*$)",
    re.IGNORECASE,
)
"""How a text turns to another answer; what follows decides."""
ALTERNATIVE = re.compile(
    r"(?:[.!]\s+|\n\s*|\s\()(?:(?:or|maybe|perhaps|possibly|alternatively)\b,?\s+(?:it(?:'s|\s+is|\s+(?:may|might|could)\s+be)\s+)?(?:an?\s+)?(?P<other>[^\s.!?)]+(?:\s[^\s.!?)]+)?)"
    r"|(?P<alone>\(?[A-Z]\)?|-?\d[\d.,]*))[.!)]*\Z",
    re.IGNORECASE,
)
"""A second answer behind the first one: "5. Or 6."."""


def without_superseded(sentence: str) -> str:
    """Without "I thought 5", "my first guess was 5" and "some say 5": none of them is the answer."""
    return _SUPERSEDED.sub("", sentence)


def takes_back(text: str, polar: bool = False) -> bool:
    """Whether a text ends by taking back what it said: "B. No.", "5, just kidding", "It is red. That is wrong.".

    Args:
        polar: "no" and "wrong" may be the answer, or say it again; then only the likes of "just kidding" count.
    """
    found = _TAKES_BACK.search(text.rstrip()[-_TAIL:])
    return found is not None and not (polar and found["denial"])
