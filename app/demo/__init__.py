"""The demo: real history through a running service, to a real receiver, as a client sees it.

``replay.run`` starts the service and the receiver as processes of their own and speaks to them over
HTTP only; nothing here touches the service's code, or its database but for the first keys.
"""
