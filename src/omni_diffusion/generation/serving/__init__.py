"""A small server and its page: ask in a browser, and watch the answer come about."""
