"""The HTTP service: a durable queue of jobs, one worker that runs them, and the routes of two APIs.

Only the command ``ltx2 serve`` imports this room. It needs the optional packages of the extra ``serve``.
"""
