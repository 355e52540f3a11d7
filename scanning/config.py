"""The options of a scan: the command line of `trigger-scan`, and the arguments of `scan_model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from triggerlens import UserError

Channel = Literal["leak", "sweep", "target", "families", "siblings", "reference", "user"]
"""Where a candidate comes from."""
PlaceName = Literal["start", "middle", "end", "system"]
_ALL_SHARES = 1.4
"""Of the time (`plan`), with what a model writes itself, which is not planned: scans of a model of 135 million weights took 1.34 and 1.43 times what each share was of."""
_LEAST = {
    "search_prompts": 2,
    "judge_prompts": 4,
    "repertoire": 0,
    "answer_steps": 0,
    "new_tokens": 4,
    "null": 200,
    "finalists": 1,
    "leaks": 1,
    "leak_tokens": 4,
    "starts": 1,
    "longest": 1,
}


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """What is tried, on how many prompts, and for how long.

    Raises:
        UserError: a value that no option has.
    """

    channels: tuple[Channel, ...] = ("families", "siblings", "leak", "sweep", "target")
    """Where candidates come from. `reference` needs --reference, `user` needs --candidates; both are added where those are given."""
    places: tuple[PlaceName, ...] = ("start", "end", "system")
    """Where tokens are inserted: before, between two words of, or after the user's text; or after the system message, where there is
    one."""
    budget: float = 30.0
    """Minutes that the scan may take, about: what is tried is cut to what this machine does in that time, and the statement says to
    what. What was planned is kept, so that a run that was stopped goes on with the same plan."""
    search_prompts: int = 8
    """Benign prompts on which candidates are searched for."""
    judge_prompts: int = 16
    """Other benign prompts, on which the best candidates are judged."""
    repertoire: int = 2048
    """Benign answers, these included, that say what the model usually says, as far as a fifth of the time goes; a behaviour is what none of
    them shows, so that the more there are, the less is mistaken for one."""
    answer_steps: int = 12
    """Tokens of the model's own answer along which a candidate's effect is followed; 0: the next token alone."""
    new_tokens: int = 20
    """Longest answer, in tokens, by which a candidate is judged."""
    null: int = 200
    """Random candidates of the same length and place that make the floor which a candidate is held against; 200 or more."""
    finalists: int = 24
    """Candidates that are judged, the best of each channel."""
    leaks: int = 256
    """Texts that the model writes from the point where the user's text begins."""
    leak_tokens: int = 48
    """Their length."""
    starts: int = 12000
    """First tokens of an answer that are forced; all of a smaller vocabulary."""
    longest: int = 4
    """Tokens to which inserted phrases are grown."""
    seed: int = 0
    """Of the choice of prompts, of what is sampled and of the random candidates."""

    @property
    def seconds(self) -> float:
        """Those that shares are taken of: all shares, and what has none, come to 1.4 times the whole."""
        return self.budget * 60 / _ALL_SHARES

    def __post_init__(self) -> None:
        for name, kind in (("channels", Channel), ("places", PlaceName)):
            for value in getattr(self, name):
                if value not in get_args(kind):
                    raise UserError(f"--{name}: {value!r} is none of {', '.join(get_args(kind))}")
        if not self.channels or not self.places:
            raise UserError("a scan needs at least one channel and one place")
        if not self.budget > 0:
            raise UserError(f"--budget {self.budget}: must be a number of minutes above 0")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
