"""How long OpenMP's threads spin while they wait for each other, before they let go of their core."""

import os

SPIN_COUNT = "10000"  # about a tenth of a millisecond


def limit_spinning() -> None:
    """Let waiting threads of this process, and of those that it starts, sleep soon. Has no effect once torch is imported.

    GNU's default, thirty times as long, makes a program many times slower where another one wants the same cores; not to
    spin at all makes it slower where it has them for itself. What the environment says already, holds.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
