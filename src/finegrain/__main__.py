"""`python -m finegrain` is the `finegrain` command, though it starts slower."""

from finegrain_command import main

main()
