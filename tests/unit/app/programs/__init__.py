"""Programs as Faust's users write them, with nothing changed but the import.

They name a broker that is not there: the tests beside them set the environment, which wins.
"""
