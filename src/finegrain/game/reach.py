"""Which loss reaches which weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from finegrain.rules.selection import (
    Selector,
    checked_selectors,
    label,
    no_weight_selected,
    portable,
    select,
    weight_path,
)

Layers = Mapping[str, keras.layers.Layer]


class Reach:
    """Which weights each loss reaches.

    Args:
        selectors: For each name of a loss, what selects its weights: the name of a network, what
            `finegrain.Rule` takes, or a list of these. By default there is a loss for each network
            that has weights to train, with its name.
        networks: The networks by name.
    """

    def __init__(self, selectors: Mapping[str, Any] | None, networks: Layers) -> None:
        if selectors is None:
            selectors = {
                name: name for name, network in networks.items() if network.trainable_variables
            }
            if not selectors:
                raise ValueError(
                    "Nothing would learn: none of the networks has weights to train. "
                    f"Received: networks={list(networks)}"
                )
        if not isinstance(selectors, Mapping) or not selectors:
            raise TypeError(
                "`reach` should be a dict from the name of each loss to the networks that it "
                f"moves, as in {{'cycle': ['forward', 'backward']}}. Received: reach={selectors!r}"
            )
        self.networks = networks
        self.selectors: dict[str, list[Selector]] = {
            loss: [
                networks[one] if isinstance(one, str) and one in networks else one
                for one in _checked(loss, wanted)
            ]
            for loss, wanted in selectors.items()
        }

    def of(self, variables: Sequence[keras.Variable]) -> dict[str, list[int]]:
        """Return for each loss the indices of those of `variables` that it reaches.

        Raises:
            ValueError: if a selector selects none of them, or one of them is selected by none.
        """
        found: dict[str, list[int]] = {}
        for loss, selectors in self.selectors.items():
            reached: set[int] = set()
            for selector in selectors:
                selected = {i for i, chosen in enumerate(select(selector, variables)) if chosen}
                if not selected:
                    why = no_weight_selected(selector, variables)
                    raise ValueError(f"The loss {loss!r} moves nothing: {why}")
                reached |= selected
            found[loss] = sorted(reached)
        missed = set(range(len(variables))).difference(*found.values())
        if missed:
            raise ValueError(
                f"No loss reaches {self._owners([variables[i] for i in sorted(missed)])}. Name it "
                "in `reach`, or, if it is to stay as it is, set `trainable = False` on it."
            )
        return found

    def _owners(self, variables: Sequence[keras.Variable]) -> str:
        """Say which networks, if whole ones, or which weights these are."""
        ids = {id(variable) for variable in variables}
        whole = [
            name
            for name, network in self.networks.items()
            if network.trainable_variables
            and all(id(variable) in ids for variable in network.trainable_variables)
        ]
        inside = {id(v) for name in whole for v in self.networks[name].trainable_variables}
        rest = [weight_path(variable) for variable in variables if id(variable) not in inside]
        named = [f"the network {name!r}" for name in whole]
        named += [f"the weight {path!r}" for path in rest[:3]]
        if len(rest) > 3:
            named.append(f"{len(rest) - 3} more weights")
        return ", ".join(named)

    def describe(self) -> dict[str, list[str]]:
        """Return for each loss what its selectors are called."""
        names = {id(network): name for name, network in self.networks.items()}
        return {
            loss: [names.get(id(one), label(one)) for one in selectors]
            for loss, selectors in self.selectors.items()
        }

    def get_config(self) -> dict[str, list[Any]]:
        """Return selectors that fit into a file; networks by their names."""
        names = {id(network): name for name, network in self.networks.items()}
        return {
            loss: [names.get(id(one)) or portable(one) for one in selectors]
            for loss, selectors in self.selectors.items()
        }


def _checked(loss: Any, wanted: Any) -> list[Selector]:
    if not isinstance(loss, str) or not loss:
        raise TypeError(f"A loss in `reach` has a name. Received: {loss!r}")
    try:
        return checked_selectors(wanted)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`reach[{loss!r}]` should be the name of a network, or what selects weights in a "
            f"finegrain.Rule, or a list of these. Received: {wanted!r}"
        ) from error
