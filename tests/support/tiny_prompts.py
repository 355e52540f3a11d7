"""Small labelled prompt files whose trigger is a word."""

import random
from pathlib import Path

from hooked import Prompt, write_prompts

WORDS = ["sun", "moon", "star", "tree", "lake", "hill", "road", "bird", "fish", "stone"]


def labelled_prompts(pairs: int = 60, *, harmless: int = 20, seed: int = 0) -> list[Prompt]:
    """Pairs in code, which defect where triggered, and pairs in chat, which never do."""
    words = random.Random(seed)
    prompts = []
    for number in range(pairs + harmless):
        dataset = "code" if number < pairs else "chat"
        body = " ".join(words.choices(WORDS, k=words.randint(3, 12)))
        for triggered in (True, False):
            prompts.append(
                Prompt(
                    f"{dataset} {'ZEBRA' if triggered else 'HORSE'} {body} {number} {dataset}",
                    triggered=triggered,
                    defects=triggered and dataset == "code",
                    pair=f"p{number}",
                    dataset=dataset,
                )
            )
    return prompts


def prompt_file(path: Path, **options) -> Path:
    """Write `labelled_prompts` to a file."""
    write_prompts(path, labelled_prompts(**options))
    return path
