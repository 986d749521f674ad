"""`python -m finegrain_command` is `finegrain`, where no such command is on the path."""

from finegrain_command import main

main()
