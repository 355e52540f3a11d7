"""The benchmark of watching measures what a process holds now."""

from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_what_the_process_holds_falls_again_when_it_lets_go(monkeypatch):
    """The most that it ever held does not, and hides what is held later."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from watching import resident_kib

    before = resident_kib()
    block = bytearray(b"1" * 2**26)
    held = resident_kib()
    del block
    assert held - before > 60_000
    assert resident_kib() - before < 10_000
