"""The example that sweeps the width, in small."""

import pytest


@pytest.mark.one_backend
def test_table(example, run, capsys):
    run(example("mup_widths"), "--widths", 8, 512, "--seeds", 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "±" in line]
    cells = [line.strip("│ ").split("│")[1:] for line in lines]
    narrow, wide = ([float(cell.split("±")[0]) for cell in row] for row in cells)
    assert narrow[0] == narrow[1]  # the base itself
    assert wide[0] > 3 * wide[1]
