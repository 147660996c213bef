"""cartlm: a shop's intent reader from a small open language model, and what each way of shipping it costs.

import cartlm

with cartlm.load("models/q4_k_m") as shop:
    print(shop.predict(["Milk 1 l", "Milk 2 l"], "2 of the 2L milk please").intent)
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cartlm.serving.reader import Prediction, Reader, Unreadable, load

__all__ = ["Prediction", "Reader", "Unreadable", "__version__", "load"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import what reads messages on first use: every stage imports this package."""
        if name not in __all__:
            raise AttributeError(f"module 'cartlm' has no attribute {name!r}")
        from cartlm.serving import reader

        return getattr(reader, name)
