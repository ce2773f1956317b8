"""Declared aggregates: what folds a topic's events into the rows of a table, window by window.

`functions` fold and merge states, `spec` is a declaration, `fold` and `windowed_fold` take chunks into rows,
`late_events` and `revisions` keep what came too late and fold it in after all, `partition` is one source
partition of all that, and `shuffle` brings partials to the owner of their group key.
"""

from streamflow.aggregates.functions.amounts import Max, Mean, Min, Sum, Variance
from streamflow.aggregates.functions.base import OTHER, Aggregate, Bad, Field, Placed
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
    "Sum",
    "TopK",
    "Variance",
]
