"""Check the shares of a split with a million users: ``scripts/split_shares.py [USERS]``.

Prints the share of the new side at each step. Fails if one is off by more than 0.2 points, or if a user moves back.
"""

from __future__ import annotations

import sys

from passerelle.crossing.sides import Sides, position

STEPS = (10, 50, 250, 500, 1000)  # per mille


def main() -> int:
    """Run the check, and return the exit code."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    places = [position(b"split shares", b"user-%d" % user) for user in range(number)]
    is_new = bytearray(number)
    failed = False
    for share in STEPS:
        of = Sides({"old": 1000 - share, "new": share}).of
        back = 0
        for user, place in enumerate(places):
            side = of(place)
            back += side < is_new[user]
            is_new[user] = side
        found = sum(is_new) / number
        failed |= abs(found - share / 1000) > 0.002 or back > 0
        print(f"{share / 10:5.1f} %: {found:8.4%} of {number:,} users on the new side, {back} moved back")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
