"""Aggregates: fold events into states, merge states, give results. `base` has the contract."""

from streamflow.aggregates.functions.amounts import Max, Mean, Min, Sum, Variance
from streamflow.aggregates.functions.base import OTHER, Aggregate, Bad, Field, Placed, State
from streamflow.aggregates.functions.counting import Count, CountBy
from streamflow.aggregates.functions.ordering import Collect, First, Last
from streamflow.aggregates.functions.quantiles import Quantile
from streamflow.aggregates.functions.sketches import ApproxDistinct, TopK

__all__ = [
    "OTHER",
    "Aggregate",
    "ApproxDistinct",
    "Bad",
    "Collect",
    "Count",
    "CountBy",
    "Field",
    "First",
    "Last",
    "Max",
    "Mean",
    "Min",
    "Placed",
    "Quantile",
    "State",
    "Sum",
    "TopK",
    "Variance",
]
