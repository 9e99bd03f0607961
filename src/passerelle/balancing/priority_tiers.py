"""Instances by priority: those of the first tier take everything while one of them can be picked, then the next.

This is what RFC 2782 says of SRV records: a client must try those with the lowest number that it can reach. Unlike the
priorities of zones (:mod:`.group`) nothing spills over before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from passerelle.balancing import instance as _instance
from passerelle.balancing.instance import Instance, Status
from passerelle.balancing.policies import PickerNode, Policy


class PriorityTiers:
    """A leaf made of policies, one for each tier (``instance.tier``, the lowest first). A pick costs that of a policy.

    ``size`` and ``up`` are those of the tier that is picked from: as long as one carries everything, a group above
    this node has no reason to send part of it elsewhere.
    """

    __slots__ = ("_new_policy", "_policies", "parent")

    def __init__(self, make: Callable[[], Policy], members: Iterable[Instance] = ()) -> None:
        """``make`` gives an empty policy for one tier."""
        self.parent: PickerNode | None = None
        self._new_policy = make
        self._policies: dict[int, Policy] = {}  # by tier, in their order
        self.replace(members)

    acquire = staticmethod(_instance.acquire)
    release = staticmethod(_instance.release)

    def replace(self, members: Iterable[Instance]) -> None:
        """Take this member list; see :meth:`.policies.Policy.replace`."""
        tiers: dict[int, list[Instance]] = {}
        for instance in members:
            tiers.setdefault(instance.tier, []).append(instance)
        before = self._policies
        self._policies = {tier: before.get(tier) or self._create_policies() for tier in sorted(tiers)}
        for tier, policy in self._policies.items():
            policy.replace(tiers[tier])
        for tier in before.keys() - tiers.keys():
            before[tier].parent = None
            before[tier].replace(())
        self.changed()

    def _create_policies(self) -> Policy:
        policy = self._new_policy()
        policy.parent = self
        return policy

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`.policies.PickerNode.pick`. The next tier is also for who has tried all of the one before."""
        for policy in self._policies.values():
            chosen = policy.pick(exclude, key)
            if chosen is not None:
                return chosen
        return None

    def changed(self) -> None:
        """Something below changed."""
        if self.parent is not None:
            self.parent.changed()

    @property
    def status(self) -> Status:
        """See :class:`.policies.PickerNode`."""
        return max((policy.status for policy in self._policies.values()), default=Status.DOWN)

    @property
    def _active_tier(self) -> Policy | None:
        """The tier that is picked from; the first one while none can be."""
        policies = self._policies.values()
        return next((policy for policy in policies if policy.up), next(iter(policies), None))

    @property
    def size(self) -> int:
        """How many instances are in the tier that is picked from, but for those that drain."""
        return self._active_tier.size if self._active_tier is not None else 0

    @property
    def up(self) -> int:
        """How many of them may be picked."""
        return self._active_tier.up if self._active_tier is not None else 0

    @property
    def members(self) -> tuple[Instance, ...]:
        """All instances, in any status."""
        return tuple(instance for policy in self._policies.values() for instance in policy.members)
