"""Programs that do with one client what lines of JSON tell them, and answer each with a line of JSON.

{"call": ACTION, "members": {...}} calls an action, {"wait": WAITER, "members": {...}} waits with a waiter of the
client, {"subscribe": RECORDS, "members": {...}} reads a subscription until it has so many records or ends. The answer
is {"output": ...}, {"error": {"code", "message", "status", "class"}} or {"lacks": what the client has nothing for}.

Data are Base64 and times milliseconds, in both directions. Where the server is, and as whom to ask it, the clients take
from the environment, like every program of theirs.
"""
