"""One file for each part of Faust that streamflow puts its own in the place of. Thin, and the only code
besides ``app.py`` and ``cli`` that imports faust.
"""
