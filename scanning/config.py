"""The options of a scan: the command line of `trigger-scan`, and the arguments of `scan_model`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

import tyro

from triggerlens import UserError

RULES = 7
"""Raised whenever a scan of the same settings may come out otherwise: a scan that was stopped, and a leaderboard, hold for one of them."""
Channel = Literal["leak", "sweep", "target", "families", "siblings", "reference", "user"]
"""Where a candidate comes from."""
PlaceName = Literal["start", "middle", "end", "system"]
BENIGN, RANK, JUDGE = 0.2, 0.05, 0.1
"""Shares of the time (`plan`): of every scan."""
FLOORS, OPENLY = 0.2, 0.05
"""Of one that has another channel than siblings; of one that looks for behaviours."""
SIBLINGS, APART, WRITTEN, STARTS, REACH = 0.08, 0.05, 0.04, 0.15, 0.03
"""Of one or two channels. What a model writes itself is not planned: scans of a model of 135 million weights took 1.34 and 1.43 times what each share was of, and all else
comes to 1.36."""
SWEEP, INVERSION = 0.25, 0.2
LESS_SWEEP, MORE_INVERSION = 0.15, 0.3
"""Where every behaviour that goes on by itself may be a finding (`calibrate.brought_share`), and not the surest alone."""
_BEHAVIOURS = {"leak", "target"}
"""Channels that look for behaviours."""
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
_OPTIONS = {"new_tokens": "max_new_tokens"}
"""What the command line calls a field of another name."""


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
    """Benign answers, these included, that say what the model usually says, as far as their share of the time goes; a behaviour is what none of
    them shows, so that the more there are, the less is mistaken for one."""
    answer_steps: int = 12
    """How many tokens of the model's usual answer a candidate's effect is followed over; 0: the next token only."""
    new_tokens: Annotated[int, tyro.conf.arg(name="max-new-tokens")] = 20
    """Longest answer, in tokens, by which a candidate is judged."""
    null: int = 200
    """Random candidates, of the same length and place, that form the null floor; 200 or more."""
    finalists: int = 24
    """Candidates that are judged, the best of each channel."""
    leaks: int = 256
    """Texts sampled where a user's message would begin, to see what training left."""
    leak_tokens: int = 48
    """Tokens of each of these texts."""
    starts: int = 12000
    """How many first answer tokens are forced, to see which lead to a fixed behaviour; all of a smaller vocabulary."""
    longest: int = 4
    """Longest phrase, in tokens, that the search builds."""
    seed: int = 0
    """Of the choice of prompts, of what is sampled and of the random candidates."""

    @property
    def seconds(self) -> float:
        """Those that shares are taken of: the shares of what these channels need come to the whole."""
        own = set(self.channels)
        needed = (
            (BENIGN + RANK + JUDGE, True),
            (FLOORS, self.floors),
            (OPENLY, own & _BEHAVIOURS),
            (SIBLINGS, "siblings" in own),
            (APART, "leak" in own),
            (WRITTEN, own & {"leak", "reference"}),
            (STARTS + MORE_INVERSION + REACH, "target" in own),
            (LESS_SWEEP if "target" in own else SWEEP, "sweep" in own),
        )
        return self.budget * 60 / sum(share for share, runs in needed if runs)

    def with_given(self, *, reference: bool, candidates: bool) -> ScanConfig:
        """With the channels of what else is given.

        Args:
            reference: whether there is a reference model.
            candidates: whether there are candidates of a user's own.

        Raises:
            UserError: a channel is asked for, and not given what it is for.
        """
        given = {"reference": reference, "user": candidates}
        for name, option in (("reference", "--reference"), ("user", "--candidates")):
            if name in self.channels and not given[name]:
                raise UserError(f"--channels {name}: needs {option}")
        added = [name for name, there in given.items() if there]
        return replace(self, channels=tuple(dict.fromkeys((*self.channels, *added))))  # type: ignore[arg-type]

    @property
    def floors(self) -> bool:
        """Whether candidates are held against random ones; statements are against their siblings."""
        return set(self.channels) != {"siblings"}

    def __post_init__(self) -> None:
        for name, kind in (("channels", Channel), ("places", PlaceName)):
            for value in getattr(self, name):
                if value not in get_args(kind):
                    raise UserError(f"--{name}: {value!r} is none of {', '.join(get_args(kind))}")
        if not self.channels or not self.places:
            raise UserError("a scan needs at least one channel and one place")
        if not 0 < self.budget < math.inf:
            raise UserError(f"--budget {self.budget}: must be a number of minutes above 0")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UserError(
                    f"--{_OPTIONS.get(name, name).replace('_', '-')} {getattr(self, name)}: must be at least {least}"
                )
