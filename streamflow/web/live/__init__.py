"""Tables over WebSocket and as server-sent events: a snapshot, and every change after it.

hub.py: the connections of one worker and the feeds that they have in common. feed.py: one table, the changes
of all its owners in one order, with a history (history.py); peer_feed.py: those of a peer; alignment.py: rows
that many partitions make; gathered.py: a snapshot being read. channel.py: subscriptions that get the same;
fanout.py: a change on its way to many. session.py: one client and how it falls behind; connection.py: its
WebSocket, of the frames in wire.py; filters.py: which rows it wants; sse.py: the other wire form.
"""
