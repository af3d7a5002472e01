"""Holds a graph against the model's own code: sub-networks must run, in place and extracted; what breaks is frozen.

Integer attributes that may hold a number of channels are not taken at their word: one equals it by chance, an image's
size say, or a number of steps. They are let alone until a sub-network fails in their module, and follow from then on if
it gets further with them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch

from autoslim.errors import ModelError
from autoslim.graph import ChannelGraph, Group, Patch
from autoslim.trace._follow import Failure, Follower
from autoslim.trace._run import Trace, place_inputs
from autoslim.trace._solve import Ints
from autoslim.widths import Widths


@dataclass(frozen=True)
class _Found:
    """A failure, the widths it was found at, and how far it was until there: checks passed, operators in the next."""

    failure: Failure
    widths: Widths
    reached: tuple[int, int]


def probe(graph: ChannelGraph, codes: Ints, trace: Trace, inputs: tuple[Any, ...]) -> ChannelGraph:
    """Freezes the groups that the model's own code can't follow, each with the error it raised.

    Args:
        graph: The graph, as solved; its patches are those that may be needed.
        codes: Group and atom of each label.
        trace: The forward passes at full width.
        inputs: The example inputs.
    """
    standard = {(module, attribute) for module, attribute, _ in trace.ledger.named}
    guesses = [patch for patch in graph.patches if (patch.module, patch.attribute) not in standard]
    prober = _Prober(Follower(codes, trace, place_inputs(inputs, trace.device)), graph.patches, guesses)
    graph = prober.patch(graph, [patch for patch in graph.patches if patch not in guesses])
    found = prober.find_failure(graph)
    while found is not None:
        graph, found = prober.guess(graph, found) or prober.freeze(graph, found)
    return graph


@dataclass
class _Prober:
    """Tries sub-networks of a graph.

    Attributes:
        follower: Runs them.
        patches: All that may be needed, in their order.
        guesses: Those of them that nothing but their value speaks for.
        decides: Whether the code was seen to decide by widths.
    """

    follower: Follower
    patches: Sequence[Patch]
    guesses: Sequence[Patch]
    decides: bool = field(default=False)

    def find_failure(self, graph: ChannelGraph) -> "_Found | None":
        """The first of some sub-networks that does not run as the graph says, and why."""
        passed = count()
        for widths, modes in self._widths(graph):
            failure = self.follower.extracted(graph, widths, modes)
            number = next(passed)
            if failure is None and True in modes:
                failure, number = self.follower.in_place(graph, widths), next(passed)
            if failure is not None:
                return _Found(failure, widths, (number, failure.done))
        return None

    def _widths(self, graph: ChannelGraph) -> Iterator[tuple[Widths, tuple[bool, ...]]]:
        yield _draw(graph), (False, True)
        yield _level(graph), (False,)
        yield graph.min_widths(), (False,)
        if self.decides:  # another group may come to be as wide as one that is frozen
            for size in sorted({group.size for group in graph.groups if group.frozen is not None}):
                yield _level(graph, size), (False,)

    def patch(self, graph: ChannelGraph, patches: Sequence[Patch]) -> ChannelGraph:
        return replace(graph, patches=tuple(patch for patch in self.patches if patch in patches))

    def guess(self, graph: ChannelGraph, found: _Found) -> "tuple[ChannelGraph, _Found | None] | None":
        """The graph with attributes of the module that failed, or of one around it; one is enough that gets further."""
        atoms = graph.atoms(found.widths)
        whole = graph.atoms(graph.max_widths())
        here = [
            patch
            for patch in self.guesses
            if f"{found.failure.module}.".startswith(f"{patch.module}." if patch.module else "")
            and patch not in graph.patches
            and patch.value(atoms) != patch.value(whole)
        ]
        here.sort(key=lambda patch: -len(patch.module))  # the innermost first
        for chosen in (*([patch] for patch in here), *([here] if len(here) > 1 else ())):
            alike = self._alike(chosen)
            for added in (alike, chosen) if alike != chosen else (chosen,):
                trial = self.patch(graph, [*graph.patches, *added])
                then = self.find_failure(trial)
                if then is None or then.reached > found.reached:
                    return self._spare(trial, then, chosen) if len(chosen) > 1 else (trial, then)
        return None

    def _alike(self, chosen: Sequence[Patch]) -> list[Patch]:
        """All guesses of these attributes in modules of this type: what one block needs, the others do as well."""
        modules = self.follower.trace.model
        kinds = {(type(modules.get_submodule(patch.module)), patch.attribute) for patch in chosen}
        return [each for each in self.guesses if (type(modules.get_submodule(each.module)), each.attribute) in kinds]

    def _spare(
        self, graph: ChannelGraph, found: "_Found | None", chosen: Sequence[Patch]
    ) -> "tuple[ChannelGraph, _Found | None]":
        """Leaves those of the chosen guesses alone without which a sub-network gets as far."""
        for patch in chosen:
            trial = self.patch(graph, [each for each in graph.patches if each != patch])
            then = self.find_failure(trial)
            if then is None or (found is not None and then.reached >= found.reached):
                graph, found = trial, then
        return graph, found

    def freeze(self, graph: ChannelGraph, found: _Found) -> "tuple[ChannelGraph, _Found | None]":
        """The graph with those groups frozen that are likely to blame."""
        failure, indices = found.failure, {group.name: index for index, group in enumerate(graph.groups)}
        narrowed = [g for g in graph.groups if g.frozen is None and found.widths[g.name] < g.size]
        if not narrowed:
            raise ModelError(
                f"{type(self.follower.trace.model).__name__} does not run twice as it was traced: {failure.reason}. "
                "Expected a forward pass that follows from its inputs and weights alone. If it keeps a tensor from one "
                "pass to the next, let it begin each pass anew, or take the state as an input."
            )
        suspects = [[g.name for g in narrowed if indices[g.name] in groups] for groups in failure.suspects]
        blamed = next(filter(None, suspects), [g.name for g in narrowed])
        self.decides |= failure.strays
        graph = graph.freeze(dict.fromkeys(blamed, failure.reason))
        return graph, self.find_failure(graph)


def _draw(graph: ChannelGraph) -> Widths:
    """Any whole number of atoms, unequal on purpose: equal widths would hide an integer that fits by accident.

    At least two: a dimension of one slot can't be told from one that is spread.
    """
    generator = torch.Generator().manual_seed(0)
    widths: dict[str, int] = {}
    for group in graph.groups:
        low = min(2, group.atoms) if group.frozen is None else group.atoms
        widths[group.name] = group.atom * int(torch.randint(low, group.atoms + 1, (), generator=generator))
    return Widths(widths)


def _level(graph: ChannelGraph, *first: int) -> Widths:
    """As equal as candidates and atoms allow: code that asks whether two widths are the same takes its other way.

    Args:
        graph: The graph.
        first: Widths that as many groups as can shall have, before all others.
    """
    widths = {group.name: group.size for group in graph.groups if group.frozen is not None}
    free = sorted((group for group in graph.groups if group.frozen is None), key=lambda group: group.size)
    for width in (*first, *(group.size for group in free)):
        fitting = [group for group in free if group.name not in widths and _can_be(group, width)]
        widths.update({group.name: width for group in fitting})
    return Widths(widths)


def _can_be(group: Group, width: int) -> bool:
    return group.candidates[0] <= width <= group.size and width % group.atom == 0
