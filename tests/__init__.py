import command_line  # noqa: F401  as the programs do, before torch: it says how threads wait
