"""Tables in Faust's form (plain, windowed, global, of sets), and declared aggregates as Python reads them."""
